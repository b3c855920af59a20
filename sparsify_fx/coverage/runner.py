"""A sweep: model after model, each result written at once, so that a later run goes on where this one stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from sparsify_fx.coverage.process import Limits, examine_apart
from sparsify_fx.coverage.results import ModelResult, read_results, write_results
from sparsify_fx.coverage.suites import Subject
from sparsify_fx.errors import CheckpointError

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int, ModelResult], None]
Begun = Callable[[int, int, Subject], None]


def sweep(
    found: Sequence[Subject],
    checks: Sequence[str],
    limits: Limits,
    *,
    path: Path | None = None,
    again: bool = False,
    progress: Progress = lambda number, count, result: None,
    begun: Begun = lambda number, count, subject: None,
) -> list[ModelResult]:
    """The results of all models, in order.

    Args:
        checks: names of the checks to run.
        path: where results are written after every model; checks that stand in it already are not repeated.
        again: repeat those that failed.
        progress: called after every model that was examined, with its place, the number of models, and its result.
        begun: called before each, with the same and the model.

    Raises CheckpointError when `path` holds something else, or results of other library versions, and when another
    sweep writes to it.
    """
    # Every result is written by writing the whole file, so of two sweeps the slower one would undo the other's work.
    try:
        with nullcontext() if path is None else FileLock(f"{path}.lock", timeout=0):
            return _sweep(found, checks, limits, path, again, progress, begun)
    except Timeout as error:
        raise CheckpointError(
            f"another sweep writes to {path}; wait for it, or give each a file of its own"
        ) from error


def _sweep(
    found: Sequence[Subject],
    checks: Sequence[str],
    limits: Limits,
    path: Path | None,
    again: bool,
    progress: Progress,
    begun: Begun,
) -> list[ModelResult]:
    """The sweep, by the only process that writes to `path`."""
    known = (
        {result.key: result for result in read_results(path)}
        if path is not None and path.exists()
        else {}
    )
    for number, subject in enumerate(found, start=1):
        # Check by check: a later version may have new ones, and a sweep with --no-onnx lacks the longest.
        old = known.get((subject.suite, subject.name))
        missing = [name for name in checks if old is None or name not in old.checks]
        if again and old is not None:
            missing = [
                name for name in checks if name in missing or name in old.failures()
            ]
        if not missing:
            continue
        _LOG.info(
            "%d of %d: %s %s: %s",
            number,
            len(found),
            subject.suite,
            subject.name,
            ", ".join(missing),
        )
        begun(number, len(found), subject)
        result = joined(old, examine_apart(subject, missing, limits))
        # At once and whole: days of work must survive a power failure at any moment.
        known[result.key] = result
        if path is not None:
            write_results(path, known.values())
        progress(number, len(found), result)
    # The file may hold models of other shards too; they stay in it, but are not what was asked for.
    wanted = [(subject.suite, subject.name) for subject in found]
    return [known[key] for key in wanted]


def joined(old: ModelResult | None, new: ModelResult) -> ModelResult:
    """The new result with the outcomes of earlier checks that it does not repeat."""
    if old is not None:
        new.checks = {**old.checks, **new.checks}
        new.peak_memory = max(old.peak_memory, new.peak_memory)
        new.weights, new.inputs = new.weights or old.weights, new.inputs or old.inputs
    return new
