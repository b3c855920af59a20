"""stability: the error on the line between two trainings from one state with other orders of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import torch

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import Line
from sparsify_fx.analysis.reports import connectivity
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid, Value

STABLE = 0.02
"""The error barrier up to which a network counts as stable; [Frankle 2020], section 2."""
_REMEDY = (
    "train it with --set 'init_from=[{run: RUN, take: [mask, weights], epoch: K}]', --seed of its own and "
    "--set 'allow_other=[seed]'"
)


def lacks(run: Run) -> str | None:
    """A start from the weights of another run, which two trainings can share."""
    if any("weights" in source.take for source in run.config.init_from):
        return None
    return f"does not begin with the weights of another run; {_REMEDY}"


def together(runs: Sequence[Run]) -> str | None:
    """Why there is no pair among these runs."""
    if any(pairs(runs)):
        return None
    return (
        "no two of these runs begin with the same weights and masks and have other seeds; take weights and mask of one "
        "state of one run"
    )


def pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Those that begin alike and see the data in another order."""
    for a, b in combinations(runs, 2):
        if a.config.seed != b.config.seed and _same_start(a, b):
            yield a, b


def _same_start(a: Run, b: Run) -> bool:
    first, second = a.initial, b.initial
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def distance(a: Run, b: Run) -> float:
    """|θ_a − θ_b| / sqrt(|θ_a − θ_0| |θ_b − θ_0|) of the prunable weights; 0 where one of them did not move."""
    parts = [(a.final[n], b.final[n], a.initial[n]) for n in a.weights]
    one, other, start = (
        torch.cat([part[place].flatten().double() for part in parts])
        for place in range(3)
    )
    way = float((one - start).norm() * (other - start).norm()) ** 0.5
    return float((one - other).norm()) / way if way else 0.0


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every pair: barriers, how far apart the two ended, and whether that counts as stable."""
    found: dict[str, Line] = {}
    apart: dict[str, float] = {}
    for a, b in pairs(runs):
        name = f"{a.label} & {b.label}"
        found[name] = connectivity.line(a, b, options)
        apart[name] = distance(a, b)
    rows: list[tuple[Value, ...]] = []
    for name, line in found.items():
        told = "yes" if line.error_barrier <= STABLE else "no"
        barriers = line.error_barrier, line.loss_barrier
        rows.append((name, *barriers, told, apart[name]))
    columns = ("runs", "error barrier", "loss barrier", "stable", "apart")
    return Findings(
        grids=(Grid("from one state, in other orders", columns, tuple(rows)),),
        figures={"stability": lambda figure: draw(found, figure)},
        data={
            name: {
                **asdict(line),
                **connectivity.barriers_of(line),
                "apart": apart[name],
            }
            for name, line in found.items()
        },
        settings=connectivity.settings_of(options),
        notes=(
            f"stable: an error barrier of at most {STABLE:g}; apart: the distance of the ends by the way they went",
            "each run has a whole schedule of learning rates from the common state on, where the paper trains on "
            "with what is left of one",
        ),
    )


def draw(found: dict[str, Line], figure: Any) -> None:
    """Test error over the line, with the barrier up to which it counts as stable."""
    (axes,), styles = panels(figure), styles_of(found)
    for name, line in found.items():
        ends = (line.error[0] + line.error[-1]) / 2
        over = [error - ends for error in line.error]
        axes.plot(line.alphas, over, label=name, **styles[name])
    axes.axhline(STABLE, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="from the first run (0) to the second (1)",
        ylabel="test error over the mean of the ends",
    )
    axes.grid(alpha=0.3)
    legend(figure, axes)


ANALYSES.add(
    "stability",
    Analysis(
        "stability",
        "Whether trainings from one state with other orders of the data end in one linearly connected region.",
        "[Frankle 2020], sections 2 and 3",
        report,
        lacks,
        least=2,
        alike=True,
        together=together,
    ),
)
