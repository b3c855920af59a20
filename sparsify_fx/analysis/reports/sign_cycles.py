"""sign-cycles: after which prune/retrain cycle signs stay, how often they switch, flips from init at each cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.figures import grouped_bars, legend, line_style
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.sign_history import kept_signs, settled_after, sign_switches
from sparsify_fx.analysis.signs import sign_flips
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
    """Fewer than two kept cycles."""
    if len(run.cycles) >= 2:
        return None
    return (
        f"keeps the end of {len(run.cycles)} cycles and two are needed; train a method with cycles (lrr, imp, wr, ...) "
        "with --set save_cycles=true"
    )


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run with cycles."""
    found = {run.label: measure(run) for run in runs}
    points = (
        "init",
        *(
            f"cycle {cycle}"
            for cycle in max((one.cycles for one in found.values()), key=len)
        ),
    )
    rows = [
        (
            label,
            cycle,
            one.sparsity[index],
            one.flips[index],
            one.flips[index] / one.kept[index],
        )
        for label, one in found.items()
        for index, cycle in enumerate(one.cycles)
    ]
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
    flips = [
        sign_flips(first, state, mask)
        for state, mask in zip(states.values(), masks, strict=True)
    ]
    total = sum(mask.numel() for mask in masks[0].values())
    signs = kept_signs([first, *states.values()], run.final_masks())
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
    figure.set_size_inches(8.6, 2.9)
    flips, settled, switches = figure.subplots(1, 3)
    for index, (label, one) in enumerate(found.items()):
        shares = [count / kept for count, kept in zip(one.flips, one.kept, strict=True)]
        flips.plot(one.sparsity, shares, label=label, **line_style(index))
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
    return [*values, *[0.0] * (len(most) + 1 - len(values))]


def _shares(
    title: str, points: Sequence[str], columns: dict[str, tuple[float, ...]]
) -> Grid:
    rows = tuple(
        (
            point,
            *(
                values[index] if index < len(values) else ""
                for values in columns.values()
            ),
        )
        for index, point in enumerate(points)
    )
    return Grid(title, ("", *columns), rows)


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
