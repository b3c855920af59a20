"""Carry out the analyses that the given runs allow; write their figures and numbers."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sparsify_fx.analysis.reports  # noqa: F401 - fills the registry
from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.runs import Run, open_runs
from sparsify_fx.errors import AnalysisError
from sparsify_fx.figures import Look, check_look, look, save
from sparsify_fx.plugins import load_plugins
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown, facts
from sparsify_fx.train.files import write_text

_LOG = logging.getLogger(__name__)

RESULT = "analysis.json"


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """One analysis: what it found and the figures it wrote.

    Attributes:
        left_out: why some of the runs are not in it, by label.
        seconds: wall time, figures included.
    """

    analysis: Analysis
    findings: Findings
    figures: tuple[str, ...]
    left_out: dict[str, str]
    seconds: float

    def headline(self) -> str:
        """Which analysis, its summary and its figures."""
        return (
            f"{self.analysis.name}: {self.analysis.summary} {', '.join(self.figures)}"
        )

    def tables(self) -> tuple[FittingTable, ...]:
        """The findings' tables."""
        return tuple(grid.table() for grid in self.findings.grids)

    def to_dict(self) -> dict[str, Any]:
        """The findings, where they come from and the figures' paths, as types that json.dumps takes."""
        about = {"summary": self.analysis.summary, "source": self.analysis.source}
        how = {
            "figures": list(self.figures),
            "left_out": self.left_out,
            "seconds": round(self.seconds, 1),
        }
        return {**about, **how, **self.findings.to_dict()}


@dataclass(frozen=True, repr=False)
class Analyzed(Shown):
    """All analyses by name, and why the others were not carried out."""

    runs: dict[str, str]
    results: dict[str, Result]
    skipped: dict[str, str]

    def headline(self) -> str:
        """How many runs, and which analyses were carried out."""
        done = ", ".join(self.results) or "none"
        return f"{len(self.runs)} run(s); {done}; {len(self.skipped)} skipped"

    def tables(self) -> tuple[FittingTable, ...]:
        """The tables of all analyses, and why the others were not carried out."""
        found: list[FittingTable] = []
        for result in self.results.values():
            found += result.tables()
        return (
            (*found, facts("skipped", self.skipped.items()))
            if self.skipped
            else tuple(found)
        )

    def to_dict(self) -> dict[str, Any]:
        """Runs, results and what was skipped, as types that json.dumps takes."""
        results = {name: result.to_dict() for name, result in self.results.items()}
        return {"runs": self.runs, "analyses": results, "skipped": self.skipped}


@dataclass(frozen=True)
class _Step:
    """An analysis, the runs that it can take, and why not the others."""

    analysis: Analysis
    runs: list[Run]
    left_out: dict[str, str]
    misfit: str | None = None

    @property
    def allowed(self) -> bool:
        return len(self.runs) >= self.analysis.least and self.misfit is None

    def reason(self) -> str:
        """Why it is not carried out."""
        # A run that lacks something is told first: giving more runs like it would not help.
        least = self.analysis.least
        if self.misfit is not None:
            return self.misfit
        if self.left_out:
            return "; ".join(
                f"{label}: {lack}" for label, lack in self.left_out.items()
            )
        return f"compares runs and needs {least}; give {least - len(self.runs)} more"


def find_analyses(only: Sequence[str] = ()) -> list[Analysis]:
    """The analyses of these names, those of plugins among them; every one if none is named.

    Raises UnknownNameError with the nearest name.
    """
    load_plugins()
    return [ANALYSES[name] for name in dict.fromkeys(only or ANALYSES)]


def analyze(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    formats: Sequence[str] = ("png",),
    dpi: int = 200,
    size: str | None = None,
    options: Options | None = None,
    device: str = "cpu",
    show: Callable[[str], None] = lambda line: None,
) -> Analyzed:
    """Analyse one or more runs; write {figure}.png and analysis.json into `out`.

    Args:
        paths: run folders of `sparsify-fx train`, finished or not; they are only read.
        out: a folder, made if need be; files of an earlier analysis are replaced.
        only: names of analyses; all that the runs allow if empty.
        formats: png, svg, pdf.
        dpi: pixels an inch, of png; size: width in cm, or width x height, such as "8.5x6"; None: 8.5 (17.8 for many
            panels).
        show: gets a line before each analysis.

    Raises UnknownNameError for an unknown analysis or format, CheckpointError for what is no run, AnalysisError when a
    chosen analysis is not possible (with the remedy), matplotlib is missing or `out` cannot be written; all of them
    before any analysis is carried out.

    Example: `analyze(["runs/lrr-0123456789"], "analysis").results["signs"].findings.data`.
    """
    # 1. Everything that can fail fails now: analyses on data take minutes.
    chosen = find_analyses(only)
    wanted = check_look(look(formats, dpi, size))
    runs = open_runs(paths, device=device)
    steps = [_plan(analysis, runs) for analysis in chosen]
    # Unasked, an analysis that is not possible is skipped and told of; asked for by name, it is an error.
    # So is the case that none is left.
    impossible = [step for step in steps if not step.allowed]
    if impossible and (only or len(impossible) == len(steps)):
        told = "; ".join(
            f"{step.analysis.name}: {step.reason()}" for step in impossible
        )
        raise AnalysisError(f"not possible with these runs: {told}")
    folder = _make(Path(out))

    # 2. Carry them out, and write the numbers last: where analysis.json is, its figures are too.
    results = {}
    for step in (step for step in steps if step.allowed):
        show(f"{step.analysis.name} ...")
        _LOG.info("%s of %d runs", step.analysis.name, len(step.runs))
        results[step.analysis.name] = _carry_out(
            step, folder, wanted, options or Options()
        )
    # What was left out is said too: a table without a run could pass for one that has them all.
    skipped = {step.analysis.name: step.reason() for step in impossible}
    done = Analyzed({run.label: str(run.path) for run in runs}, results, skipped)
    write_text(folder / RESULT, json.dumps(done.to_dict(), indent=2) + "\n")
    return done


def _plan(analysis: Analysis, runs: Sequence[Run]) -> _Step:
    """The runs that this analysis can take, and why not the others."""
    usable: list[Run] = []
    left_out = {}
    for run in runs:
        # The first usable run decides which model it is; those of another are left out, and not refused,
        # since other analyses of the same command can take them.
        lack = analysis.lacks(run)
        if (
            lack is None
            and analysis.alike
            and usable
            and _kind(run) != _kind(usable[0])
        ):
            lack = f"trains another model or other data than {usable[0].label}; compare runs of one model"
        if lack is None:
            usable.append(run)
        else:
            left_out[run.label] = lack
    # Asked only of enough runs: it compares them.
    enough = len(usable) >= analysis.least
    misfit = analysis.together(usable) if enough else None
    return _Step(analysis, usable, left_out, misfit)


def _kind(run: Run) -> tuple[Any, ...]:
    """What two runs must share to be compared weight by weight: the shapes too, since options change a model."""
    shapes = tuple((name, tuple(run.final[name].shape)) for name in run.weights)
    return run.config.model, run.config.data, shapes


def _carry_out(step: _Step, folder: Path, wanted: Look, options: Options) -> Result:
    start = time.perf_counter()
    findings = step.analysis.run(step.runs, options)
    figures: list[str] = []
    for stem, draw in findings.figures.items():
        figures += save(folder / stem, draw, wanted)
    return Result(
        step.analysis,
        findings,
        tuple(figures),
        step.left_out,
        time.perf_counter() - start,
    )


def _make(folder: Path) -> Path:
    """The folder, made if need be; AnalysisError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnalysisError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder


def __getattr__(name: str) -> Any:
    """`Analysed`, the name of `Analyzed` in version 0.1."""
    if name == "Analysed":
        warnings.warn(
            f"{__name__}.Analysed is now Analyzed; the old name goes with version 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        return Analyzed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
