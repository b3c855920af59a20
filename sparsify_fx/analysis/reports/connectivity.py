"""connectivity: the test error on the line between two runs, with batch norm estimated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from torch import nn

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import Line, line_between, loss_and_error
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid, Value

# What is told of a line: of its ends, and between them.
COLUMNS = (
    "error of first",
    "of second",
    "highest between",
    "error barrier",
    "loss barrier",
)
NOTES = (
    "statistics of batch norm estimated on training images at every point, the ends included",
)


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every pair of runs: errors at the ends, the highest between, and barriers."""
    # Once for each pair: the line from the second to the first is the same one.
    found = {
        f"{a.label} & {b.label}": line(a, b, options) for a, b in combinations(runs, 2)
    }
    rows: list[tuple[Value, ...]] = [
        (pair, *cells_of(one)) for pair, one in found.items()
    ]
    columns = ("runs", *COLUMNS)
    return Findings(
        grids=(Grid("test error on the line between two runs", columns, tuple(rows)),),
        figures={"connectivity": lambda figure: draw(found, figure)},
        data={pair: {**asdict(one), **barriers_of(one)} for pair, one in found.items()},
        settings=settings_of(options),
        notes=NOTES,
    )


def line(a: Run, b: Run, options: Options) -> Line:
    """Loss and error on the way from one run to the other, on the whole test set."""
    return measure_of(a, options)(a.model(), b.model())


def measure_of(run: Run, options: Options) -> Callable[[nn.Module, nn.Module], Line]:
    """Loss and error on the way from one network to another, on the whole test set of this run."""
    # Read once for all points; that other runs have the same data, `alike` has seen to.
    test, training = run.test_batches(), run.batches(options.samples, options.seed)
    return lambda a, b: line_between(
        a,
        b,
        options.points,
        training,
        lambda model: loss_and_error(model, test, run.loss),
    )


def cells_of(found: Line) -> tuple[float, ...]:
    """The values of `COLUMNS`."""
    ends = found.error[0], found.error[-1], max(found.error)
    return (*ends, *barriers_of(found).values())


def barriers_of(found: Line) -> dict[str, float]:
    """Of error and loss, by name."""
    return {"error_barrier": found.error_barrier, "loss_barrier": found.loss_barrier}


def settings_of(options: Options) -> dict[str, Any]:
    """The options that these analyses read."""
    return {
        "samples": options.samples,
        "seed": options.seed,
        "points": options.points,
    }


def draw(found: dict[str, Line], figure: Any) -> None:
    """Test error and test loss over the line, a panel each."""
    both, styles = panels(figure, 2), styles_of(found)
    for axes, what in zip(both, ("error", "loss"), strict=True):
        for pair, one in found.items():
            axes.plot(one.alphas, getattr(one, what), label=pair, **styles[pair])
        axes.set(
            xlabel="from the first run (0) to the second (1)", ylabel=f"test {what}"
        )
        axes.grid(alpha=0.3)
    legend(figure, both[0], columns=3)


ANALYSES.add(
    "connectivity",
    Analysis(
        "connectivity",
        "Test error on the straight line between two runs, and its barrier.",
        "[Frankle 2020], section 2",
        report,
        least=2,
        alike=True,
    ),
)
