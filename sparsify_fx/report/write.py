"""`report`: facts in, one page out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import AnalysisError
from sparsify_fx.figures import Look, check_look
from sparsify_fx.report.details import Details, details_of
from sparsify_fx.report.facts import Facts, read_facts
from sparsify_fx.report.figures import MANY
from sparsify_fx.report.notebook import notebook
from sparsify_fx.report.page import page
from sparsify_fx.report.sizes import Sizes, sizes_of
from sparsify_fx.train.files import write_text

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a page was made of, and where it is; `notebook`: None where none was asked for."""

    facts: Facts
    details: dict[str, Details]
    sizes: dict[str, Sizes]
    page: str
    notebook: str | None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves, as types that json.dumps takes."""
        return {
            "page": self.page,
            "notebook": self.notebook,
            "missing": list(self.facts.missing),
            "runs": [
                {"label": run.label, "folder": str(run.path), "state": run.state}
                for run in self.facts.runs
            ],
            "details": {label: asdict(one) for label, one in self.details.items()},
            "sizes": {label: asdict(one) for label, one in self.sizes.items()},
        }


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "report.html",
    *,
    runs: str | os.PathLike[str] = "runs",
    details: bool | None = None,
    sizes: bool | None = None,
    notebook_too: bool = False,
    show: Callable[[str], None] = lambda line: None,
) -> Report:
    """Write a self-contained HTML file about runs, finished or not: it asks no other file and no other host.

    Args:
        paths: run folders, or a sweep's file (whose run folders are in `runs`).
        out: the file, replaced if it is there.
        details: events, layers and signs of each run, for which models are built; None: of up to 12 runs.
        sizes: export each model and time it; None: of up to 4 runs.
        notebook_too: write the same as a notebook beside it, OUT.ipynb, to go on from.
        show: gets a line before each step.

    Raises CheckpointError for a folder that holds no run, SweepError for a sweep that never ran, AnalysisError where
    matplotlib is missing or `out` cannot be written; nothing is written then.

    Example: `report(["runs/lrr-0123456789", "runs/signin-0123456789"], "report.html")`.
    """
    # 1. What can fail fails now: models are built and timed below.
    target = _target(Path(out))
    check_look(Look())
    facts = read_facts(paths, runs)

    # 2. What takes time, one run after the other.
    count = len(facts.runs)
    found: dict[str, Details] = {}
    measured: dict[str, Sizes] = {}
    for run in facts.runs:
        if details or (details is None and count <= MANY):
            show(f"{run.label}: events, layers and signs ...")
            _LOG.info("details of %s", run.path)
            found[run.label] = details_of(run.path)
        # Timing takes seconds for each model; nothing is there to export before the first checkpoint.
        if run.metrics and (sizes or (sizes is None and count <= 4)):
            show(f"{run.label}: sizes and speeds ...")
            _LOG.info("sizes of %s", run.path)
            measured[run.label] = sizes_of(run.path)

    # 3. The page, whole, and then the notebook.
    beside = target.with_suffix(".ipynb") if notebook_too else None
    try:
        write_text(target, page(facts, found, measured))
        if beside is not None:
            write_text(beside, notebook(facts))
    except OSError as error:
        raise AnalysisError(
            f"cannot write {target}: {error.strerror or error}; choose another --out"
        ) from error
    return Report(facts, found, measured, str(target), str(beside) if beside else None)


def _target(path: Path) -> Path:
    """The file to write; AnalysisError for what cannot be one."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise AnalysisError(
            f"a report is an .html file, got {path}; choose such an --out"
        )
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        what = "is a folder" if path.is_dir() else "lies in a folder that is not there"
        raise AnalysisError(f"cannot write {path}: it {what}; choose another --out")
    if not os.access(folder, os.W_OK):
        raise AnalysisError(f"cannot write to {folder}; choose another --out")
    return path
