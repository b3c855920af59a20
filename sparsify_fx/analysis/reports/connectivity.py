"""connectivity: the test error on the line between two runs, with batch norm estimated again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import Line, line_between, loss_and_error
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every pair of runs: errors at the ends, the highest between, and barriers."""
    # Once for each pair: the line from the second to the first is the same one.
    found = {
        f"{a.label} & {b.label}": line(a, b, options) for a, b in combinations(runs, 2)
    }
    rows = tuple(
        (
            pair,
            one.error[0],
            one.error[-1],
            max(one.error),
            one.error_barrier,
            one.loss_barrier,
        )
        for pair, one in found.items()
    )
    columns = (
        "runs",
        "error of first",
        "of second",
        "highest between",
        "error barrier",
        "loss barrier",
    )
    return Findings(
        grids=(Grid("test error on the line between two runs", columns, rows),),
        figures={"connectivity": lambda figure: draw(found, figure)},
        data={
            pair: {
                **asdict(one),
                "error_barrier": one.error_barrier,
                "loss_barrier": one.loss_barrier,
            }
            for pair, one in found.items()
        },
        settings={
            "samples": options.samples,
            "seed": options.seed,
            "points": options.points,
        },
        notes=(
            "statistics of batch norm estimated on training images at every point, the ends included",
        ),
    )


def line(a: Run, b: Run, options: Options) -> Line:
    """Loss and error on the way from one run to the other, on the whole test set."""
    # Read once for all points; that both runs have the same data, `alike` has seen to.
    test = a.test_batches()
    return line_between(
        a.model(),
        b.model(),
        options.points,
        a.batches(options.samples, options.seed),
        lambda model: loss_and_error(model, test, a.loss),
    )


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
