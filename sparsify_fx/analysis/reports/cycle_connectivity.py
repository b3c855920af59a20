"""cycle-connectivity: the test error on the line between the ends of consecutive prune/retrain cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import Line
from sparsify_fx.analysis.reports.connectivity import (
    COLUMNS,
    NOTES,
    barriers_of,
    cells_of,
    measure_of,
    settings_of,
)
from sparsify_fx.analysis.reports.sign_cycles import lacks
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.masks import nonzeros
from sparsify_fx.tables.fitting import Grid, Value


@dataclass(frozen=True)
class Step:
    """From the end of a cycle to that of the next, which has `sparsity`."""

    cycles: tuple[int, int]
    sparsity: float
    line: Line


def measure(run: Run, options: Options) -> list[Step]:
    """Loss and error between the ends of consecutive cycles, on the whole test set."""
    measured = measure_of(run, options)
    found = []
    for pair in pairwise(run.cycles):
        first, second = (run.at_cycle(cycle) for cycle in pair)
        masks = run.masks(second)
        line = measured(run.model(first), run.model(second))
        total = sum(mask.numel() for mask in masks.values())
        found.append(Step(pair, 1 - nonzeros(masks) / total, line))
    return found


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run with cycles: errors at both ends, the highest between, and barriers."""
    found = {run.label: measure(run, options) for run in runs}
    rows: list[tuple[Value, ...]] = []
    for label, steps in found.items():
        for step in steps:
            between = f"{step.cycles[0]} to {step.cycles[1]}"
            rows.append((label, between, step.sparsity, *cells_of(step.line)))
    columns = ("run", "cycles", "sparsity", *COLUMNS)
    return Findings(
        grids=(Grid("test error between consecutive cycles", columns, tuple(rows)),),
        figures={"cycle-connectivity": lambda figure: draw(found, figure)},
        data={label: [_plain(s) for s in steps] for label, steps in found.items()},
        settings=settings_of(options),
        notes=NOTES,
    )


def _plain(step: Step) -> dict[str, Any]:
    return {**asdict(step), **barriers_of(step.line)}


def draw(found: dict[str, list[Step]], figure: Any) -> None:
    """Barriers of error and loss by the sparsity of the second cycle."""
    both, styles = panels(figure, 2), styles_of(found)
    for axes, what in zip(both, ("error", "loss"), strict=True):
        for label, steps in found.items():
            x = [step.sparsity for step in steps]
            y = [getattr(step.line, f"{what}_barrier") for step in steps]
            axes.plot(x, y, label=label, **styles[label])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="sparsity of the later cycle", ylabel=f"{what} barrier")
        axes.grid(alpha=0.3)
    legend(figure, both[0])


ANALYSES.add(
    "cycle-connectivity",
    Analysis(
        "cycle-connectivity",
        "Barrier of the test error on the line between the ends of consecutive cycles.",
        "[Paul 2023], as [Gadhikar 2024], section 1.1, cites it; the barrier: [Frankle 2020], section 2",
        report,
        lacks,
    ),
)
