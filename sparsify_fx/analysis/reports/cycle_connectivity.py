"""cycle-connectivity: the test error on the line between the ends of consecutive prune/retrain cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import Line, line_between, loss_and_error
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
    test, training = run.test_batches(), run.batches(options.samples, options.seed)
    found = []
    for pair in pairwise(run.cycles):
        first, second = (run.at_cycle(cycle) for cycle in pair)
        masks = run.masks(second)
        line = line_between(
            run.model(first),
            run.model(second),
            options.points,
            training,
            lambda model: loss_and_error(model, test, run.loss),
        )
        total = sum(mask.numel() for mask in masks.values())
        found.append(Step(pair, 1 - nonzeros(masks) / total, line))
    return found


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run with cycles: errors at both ends, the highest between, and barriers."""
    found = {run.label: measure(run, options) for run in runs}
    rows: list[tuple[Value, ...]] = []
    for label, steps in found.items():
        for step in steps:
            line, between = step.line, f"{step.cycles[0]} to {step.cycles[1]}"
            ends = line.error[0], line.error[-1], max(line.error)
            barriers = line.error_barrier, line.loss_barrier
            rows.append((label, between, step.sparsity, *ends, *barriers))
    columns = (
        "run",
        "cycles",
        "sparsity",
        "error of first",
        "of second",
        "highest between",
        "error barrier",
        "loss barrier",
    )
    return Findings(
        grids=(Grid("test error between consecutive cycles", columns, tuple(rows)),),
        figures={"cycle-connectivity": lambda figure: draw(found, figure)},
        data={label: [_plain(s) for s in steps] for label, steps in found.items()},
        settings={
            "samples": options.samples,
            "seed": options.seed,
            "points": options.points,
        },
        notes=(
            "statistics of batch norm estimated on training images at every point, the ends included",
        ),
    )


def _plain(step: Step) -> dict[str, Any]:
    line = step.line
    barriers = {"error_barrier": line.error_barrier, "loss_barrier": line.loss_barrier}
    return {**asdict(step), **barriers}


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
