"""sign-difference: how many more signs one run has flipped than another, cycle by cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.reports.sign_cycles import Cycles, lacks, measure
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid, Value

# Budgets are rounded to whole weights: two grids of one recipe differ by less, steps of two grids by more.
_SAME = 1e-3


@dataclass(frozen=True)
class Difference:
    """Of the first run and the second at the sparsities that both have: flips from init among the weights kept then.

    more: flips of the first minus those of the second; share: the same of their shares of the kept weights.
    """

    sparsity: tuple[float, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    more: tuple[int, ...]
    share: tuple[float, ...]


def difference(a: Cycles, b: Cycles) -> Difference:
    """Of two histories; empty where they have no sparsity in common."""
    found: list[tuple[float, int, int, float]] = []
    for i, sparsity in enumerate(a.sparsity):
        for j, other in enumerate(b.sparsity):
            if abs(sparsity - other) < _SAME:
                share = a.flips[i] / a.kept[i] - b.flips[j] / b.kept[j]
                found.append((sparsity, a.flips[i], b.flips[j], share))
    return Difference(
        tuple(row[0] for row in found),
        tuple(row[1] for row in found),
        tuple(row[2] for row in found),
        tuple(row[1] - row[2] for row in found),
        tuple(row[3] for row in found),
    )


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every pair of runs, the one given first minus the other."""
    histories = {run.label: measure(run) for run in runs}
    found: dict[str, Difference] = {}
    notes = []
    for first, second in combinations(histories, 2):
        one = difference(histories[first], histories[second])
        if one.sparsity:
            found[f"{first} − {second}"] = one
        else:
            notes.append(f"{first} and {second} have no sparsity in common")
    rows: list[tuple[Value, ...]] = []
    for pair, one in found.items():
        columns = (one.sparsity, one.first, one.second, one.more, one.share)
        rows += [(pair, *cells) for cells in zip(*columns, strict=True)]
    titles = ("runs", "sparsity", "flips of first", "of second", "more", "share")
    return Findings(
        grids=(Grid("sign flips from init, first minus second", titles, tuple(rows)),),
        figures={"sign-difference": lambda figure: draw(found, figure)},
        data={pair: asdict(one) for pair, one in found.items()},
        notes=tuple(notes),
    )


def draw(found: dict[str, Difference], figure: Any) -> None:
    """The difference in flips by sparsity, a line for each pair."""
    (axes,), styles = panels(figure), styles_of(found)
    for pair, one in found.items():
        axes.plot(one.sparsity, one.more, label=pair, **styles[pair])
    # Above zero the first has flipped more.
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="sparsity", ylabel="flips from init, difference")
    axes.grid(alpha=0.3)
    legend(figure, axes)


ANALYSES.add(
    "sign-difference",
    Analysis(
        "sign-difference",
        "How many more signs one run has flipped from init than another, at the end of each cycle.",
        "[Gadhikar 2024], Fig. 13",
        report,
        lacks,
        least=2,
        alike=True,
    ),
)
