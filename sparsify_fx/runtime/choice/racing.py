"""Whole models timed against each other: in turn, in one process, by the processor's time."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools import outside
from sparsify_fx.onnx_tools.feeds import feeds
from sparsify_fx.onnx_tools.signature import Asked, ports_of
from sparsify_fx.runtime.library import library
from sparsify_fx.runtime.replace import copied
from sparsify_fx.runtime.restore import Read

SECONDS = 1.5
"""What a race may take, beside the least number of rounds."""
_ROUNDS = (5, 41)
_LEAST = 0.002  # seconds of a sample: shorter runs are repeated


def open_model(
    model: onnx.ModelProto, threads: int = 1, profile: str = ""
) -> onnxruntime.InferenceSession:
    """A session that knows our operators; `profile`: where to write the times of all nodes.

    Raises ExportError for a model that onnxruntime does not take.
    """
    options = onnxruntime.SessionOptions()
    # Nodes one after another: two that run at once would share the processor, and neither
    # be timed.
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.register_custom_ops_library(library())
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own classes, a dozen of them
        reason = (str(error).splitlines() or ["no message"])[0]
        raise ExportError(
            f"layers cannot be timed, since onnxruntime does not take the model ({reason})"
        ) from error


def inlined(model: onnx.ModelProto, read: Read) -> onnx.ModelProto:
    """The model with all weights inside, a copy where they are not.

    Raises ExportError above 2 GB, which no model in memory can have.
    """
    if outside.count_bytes(model) >= outside.MAX_BYTES:
        raise ExportError(
            "a model of more than 2 GB cannot be tried out; choose its layers without autotune and measure"
        )
    # A session of a model in memory has no folder in which to look for external data.
    if not any(tensor.external_data for tensor in model.graph.initializer):
        return model
    whole = copied(model)
    for tensor in whole.graph.initializer:
        if tensor.external_data:
            tensor.CopyFrom(numpy_helper.from_array(read(tensor), tensor.name))
    return whole


def made_up(
    model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Mapping[str, Any]]:
    """Inputs to run a model on: of these sizes, and of likely ones where none are given."""
    names = ports_of(model)
    yield from feeds(
        model,
        Asked(
            shapes={name: size for name, size in (sizes or {}).items() if name in names}
        ),
    )


def first_that_runs(
    session: onnxruntime.InferenceSession, candidates: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The first inputs that the model takes. Raises ExportError where there are none."""
    wanted = {item.name for item in session.get_inputs()}
    refusal = "there are none"
    for each in candidates:
        feed = {name: value for name, value in each.items() if name in wanted}
        try:
            session.run(None, feed)
            return feed
        except Exception as error:  # onnxruntime's own classes, a dozen of them
            refusal = str(error).splitlines()[0]
    raise ExportError(
        f"layers cannot be timed, since the model runs on none of the inputs made up for it ({refusal}); give "
        "sizes that it takes, or inputs, or choose layers without autotune and measure"
    )


@dataclass(frozen=True)
class Result:
    """Medians of rounds: the time of each model over that of the base, and how far the base differs from itself."""

    ratios: tuple[float, ...]
    noise: float


def race(
    base: onnxruntime.InferenceSession,
    others: Sequence[onnxruntime.InferenceSession],
    feed: Mapping[str, Any],
    *,
    threads: int = 1,
    seconds: float = SECONDS,
) -> Result:
    """Run the base, the others, and the base again, round after round; each ratio is taken within a round.

    With one thread times are those of the thread, which other work on the machine hardly disturbs; else of the clock.
    """
    entrants = [base, *others, base]
    clock = time.thread_time if threads == 1 else time.perf_counter

    # 1. How often to run each within a sample, so that the clock's resolution does not
    # matter.
    once = [_sample(session, feed, 1, clock) for session in entrants]
    repeats = [max(1, math.ceil(_LEAST / max(taken, 1e-7))) for taken in once]

    # 2. How many rounds fit the time, doubled for the runs in between that are not timed.
    spent = sum(number * taken for number, taken in zip(repeats, once, strict=True))
    rounds = int(min(max(seconds / max(2 * spent, 1e-7), _ROUNDS[0]), _ROUNDS[1]))
    samples = list[list[float]]()
    for number in range(rounds):
        # 3. Rounds begin with another entrant each, so that none always runs after the
        # same one.
        order = [(place + number) % len(entrants) for place in range(len(entrants))]
        taken = {
            place: _sample(entrants[place], feed, repeats[place], clock)
            for place in order
        }
        samples.append([taken[place] for place in range(len(entrants))])

    # 4. Ratios within a round, against the mean of both runs of the base; whatever slows
    # a whole round down cancels.
    against = [
        [each / (0.5 * (row[0] + row[-1])) for each in row[1:-1]] for row in samples
    ]
    # The base against itself: no ratio means more than this.
    noise = abs(statistics.median(row[-1] / row[0] for row in samples) - 1)
    return Result(tuple(map(statistics.median, zip(*against, strict=True))), noise)


def _sample(
    session: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    repeats: int,
    clock: Any,
) -> float:
    """Seconds of one run, the mean of some, after one that finds another model's values in the caches."""
    inputs = dict(feed)
    session.run(None, inputs)
    start = clock()
    for _ in range(repeats):
        session.run(None, inputs)
    return float(clock() - start) / repeats


def node_times(
    model: onnx.ModelProto, feed: Mapping[str, Any], threads: int = 1, runs: int = 9
) -> dict[str, float]:
    """Nanoseconds of every node that onnxruntime runs, by its name, where and as it stands in the whole model."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_model(model, threads, str(Path(folder) / "times"))
        # Two runs more, which are left out below: the first ones allocate.
        for _ in range(runs + 2):
            session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(
                1e3 * event["dur"]
            )
    return {name: _middle_mean(taken[2:] or taken) for name, taken in found.items()}


def _middle_mean(taken: Sequence[float]) -> float:
    """The mean of the middle half: profiles know whole microseconds only, which a median would keep."""
    cut = len(taken) // 4
    return statistics.fmean(sorted(taken)[cut : len(taken) - cut])
