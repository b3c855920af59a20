"""sign-cycles: after which prune/retrain cycle signs stay, how often they switch, flips from init at each cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.figures import grouped_bars
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.sign_history import kept_signs, settled_after, sign_switches
from sparsify_fx.analysis.signs import sign_flips
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.masks import nonzeros
from sparsify_fx.tables.fitting import Grid


@dataclass(frozen=True)
class Cycles:
    """One run. sparsity, flips, kept: at the end of each cycle, flips from init among the weights kept then.

    settled: share of the weights kept at the end whose sign stays from init (first entry) or from the end of cycle 0,
    1, ... on. switches: share of them that switched 0, 1, ... times.
    """

    cycles: tuple[int, ...]
    sparsity: tuple[float, ...]
    flips: tuple[int, ...]
    kept: tuple[int, ...]
    settled: tuple[float, ...]
    switches: tuple[float, ...]


def lacks(run: Run) -> str | None:
    """Runs that keep fewer than two cycles lack them: from one there is nothing to settle or to switch."""
    if len(run.cycles) >= 2:
        return None
    return (
        f"keeps the end of {len(run.cycles)} cycles and two are needed; train a method with cycles (lrr, imp, wr, ...) "
        "with --set save_cycles=true"
    )


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run with cycles: flips by cycle, when signs settle, and how often they switch."""
    found = {run.label: measure(run) for run in runs}
    # Runs may have different numbers of cycles: columns go as far as the longest, others end earlier.
    longest = max((one.cycles for one in found.values()), key=len)
    points = ("init", *(f"cycle {cycle}" for cycle in longest))
    rows = []
    for label, one in found.items():
        for index, cycle in enumerate(one.cycles):
            share = one.flips[index] / one.kept[index]
            rows.append((label, cycle, one.sparsity[index], one.flips[index], share))
    columns = ("run", "cycle", "sparsity", "flips", "share")
    return Findings(
        grids=(
            Grid(
                "sign flips from init, at the end of each cycle", columns, tuple(rows)
            ),
            _shares(
                "share of weights whose sign stays from ... on",
                points,
                {n: one.settled for n, one in found.items()},
            ),
            _shares(
                "share of weights whose sign switched so many times",
                [str(times) for times in range(len(points))],
                {name: one.switches for name, one in found.items()},
            ),
        ),
        figures={"sign-cycles": lambda figure: draw(found, figure)},
        data={label: asdict(one) for label, one in found.items()},
    )


def measure(run: Run) -> Cycles:
    """Histories of the weights that the final mask keeps."""
    first, states = run.initial, {cycle: run.at_cycle(cycle) for cycle in run.cycles}
    masks = [run.masks(state) for state in states.values()]
    # Each cycle's flips are among the weights that its own mask keeps; for the history a weight must be there
    # at every point, and the final mask is a part of all others.
    flips = [
        sign_flips(first, state, mask)
        for state, mask in zip(states.values(), masks, strict=True)
    ]
    total = sum(mask.numel() for mask in masks[0].values())
    signs = kept_signs([first, *states.values()], run.final_masks())
    # T + 1 points, from init on, can settle at T + 1 places and switch 0 to T times.
    bins, n = len(states) + 1, signs.shape[1]
    settled = torch.bincount(settled_after(signs), minlength=bins) / n
    switched = torch.bincount(sign_switches(signs), minlength=bins) / n
    return Cycles(
        tuple(states),
        tuple(1 - nonzeros(mask) / total for mask in masks),
        tuple(count.flips for count in flips),
        tuple(count.weights for count in flips),
        tuple(settled.tolist()),
        tuple(switched.tolist()),
    )


def draw(found: dict[str, Cycles], figure: Any) -> None:
    """Flips by sparsity, and the two histograms."""
    (flips, settled, switches), styles = panels(figure, 3), styles_of(found)
    for label, one in found.items():
        shares = [count / kept for count, kept in zip(one.flips, one.kept, strict=True)]
        flips.plot(one.sparsity, shares, label=label, **styles[label])
    flips.set(
        xlabel="sparsity",
        ylabel="share of signs flipped from init",
        title="flips from init",
    )
    flips.grid(alpha=0.3)
    most = max((one.cycles for one in found.values()), key=len)
    grouped_bars(
        settled,
        ["init", *map(str, most)],
        {name: _padded(one.settled, most) for name, one in found.items()},
    )
    # Log axes: later cycles settle ever fewer signs, which a linear one would not show.
    settled.set(
        xlabel="end of cycle",
        ylabel="share of weights",
        title="signs stay after",
        yscale="log",
    )
    times = [str(count) for count in range(len(most) + 1)]
    grouped_bars(
        switches,
        times,
        {name: _padded(one.switches, most) for name, one in found.items()},
    )
    switches.set(
        xlabel="switches",
        ylabel="share of weights",
        title="signs switch so often",
        yscale="log",
    )
    legend(figure, flips)


def _padded(values: Sequence[float], most: Sequence[int]) -> list[float]:
    """With zeros up to the longest run's number of cycles, for bars that stand side by side."""
    return [*values, *[0.0] * (len(most) + 1 - len(values))]


def _shares(
    title: str, points: Sequence[str], columns: dict[str, tuple[float, ...]]
) -> Grid:
    """A column for each run; empty, not zero, where a run has no such cycle."""
    rows = []
    for index, point in enumerate(points):
        cells = [
            values[index] if index < len(values) else "" for values in columns.values()
        ]
        rows.append((point, *cells))
    return Grid(title, ("", *columns), tuple(rows))


ANALYSES.add(
    "sign-cycles",
    Analysis(
        "sign-cycles",
        "Prune/retrain cycles: when signs settle, how often they switch, flips from init.",
        "[Gadhikar 2024], Figs. 5, 13, 14 and 15b",
        report,
        lacks,
    ),
)
