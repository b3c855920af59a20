"""Run an experiment of the laboratory and write its figures and numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import AnalysisError, LabError
from sparsify_fx.figures import Look, check_look, look, save
from sparsify_fx.lab.base import EXPERIMENTS, Experiment, Findings
from sparsify_fx.plugins import load_plugins
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class LabResult(Shown):
    """An experiment's findings and the files they were written to."""

    experiment: Experiment
    findings: Findings
    full: bool
    seed: int
    figures: tuple[str, ...]
    seconds: float

    def headline(self) -> str:
        """Which experiment, and how many of its checks hold."""
        checks = self.findings.checks
        held = sum(check.holds for check in checks)
        return f"{self.experiment.name}, {held} of {len(checks)} checks hold, seed {self.seed}"

    def tables(self) -> tuple[FittingTable, ...]:
        """The findings' tables."""
        return tuple(grid.table() for grid in self.findings.grids)

    def to_dict(self) -> dict[str, Any]:
        """The findings, how they came about and the figures' paths, as types that json.dumps takes."""
        about = {
            "name": self.experiment.name,
            "paper": self.experiment.paper,
            "claim": self.experiment.claim,
        }
        how = {
            "full": self.full,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "figures": list(self.figures),
        }
        return {**about, **how, **self.findings.to_dict()}


def run_experiment(
    name: str,
    out: str | Path,
    *,
    full: bool = False,
    seed: int = 0,
    formats: Sequence[str] = ("png",),
    dpi: int = 200,
    size: str | None = None,
) -> LabResult:
    """Run one experiment; write {figure}.png and {name}.json into `out`.

    Args:
        name: one of EXPERIMENTS.
        out: a folder, made if need be; files of an earlier run of the same experiment are replaced.
        full: the paper's exact size, instead of minutes on two cores.
        seed: of data, initial values and noise.
        formats: png, svg, pdf.
        dpi: pixels an inch, of png; size: width in cm, or width x height, such as "8.5x6"; None: 8.5 (17.8 for many
            panels).

    Raises UnknownNameError for another name or format; LabError when matplotlib is missing, for another
    size, or when `out` cannot be written; all before any work is done.

    Example: `run_experiment("neuron-signin", "lab").findings.checks`.
    """
    # 1. Everything that can fail fails now: an experiment may take an hour.
    experiment, folder = find_experiment(name), Path(out)
    wanted = _look(formats, dpi, size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from error

    # 2. Run it, and write the numbers last: where the JSON is, its figures are too.
    start = time.perf_counter()
    _LOG.info("%s at %s size, seed %d", name, "full" if full else "reduced", seed)
    findings = experiment.run(full, seed)
    files: list[str] = []
    for stem, draw in findings.figures.items():
        files += save(folder / stem, draw, wanted)
    seconds = time.perf_counter() - start
    result = LabResult(experiment, findings, full, seed, tuple(files), seconds)
    from sparsify_fx.train.files import write_text

    write_text(folder / f"{name}.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


def _look(formats: Sequence[str], dpi: int, size: str | None) -> Look:
    """What is asked of the figures; errors are this room's own."""
    try:
        return check_look(look(formats, dpi, size))
    except AnalysisError as error:
        raise LabError(str(error)) from None


def find_experiment(name: str) -> Experiment:
    """The experiment of that name; UnknownNameError with the nearest one otherwise."""
    _fill()
    return EXPERIMENTS[name]


def all_experiments() -> tuple[Experiment, ...]:
    """Every experiment, by name."""
    _fill()
    return tuple(EXPERIMENTS[name] for name in EXPERIMENTS)


def _fill() -> None:
    """Imports every experiment, so that each registers itself; a new one is listed here."""
    # Here and not above: each of them imports this package itself, and imp_lenet5 models and data too.
    from sparsify_fx.lab import (  # noqa: F401
        diagonal,
        imp_lenet5,
        mirror_flow,
        neuron_lrr,
        neuron_signin,
        neuron_theorems,
        neurons_signin,
        sample_complexity,
    )

    # Those of this package first: a plugin that takes one of their names is told so.
    load_plugins()
