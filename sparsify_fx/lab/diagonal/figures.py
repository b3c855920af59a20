"""The figures of `diagonal`: distances over time, schedules, and the potential."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify_fx.figures import color, legend, panels, series
from sparsify_fx.lab.common.statistics import mean_with_interval
from sparsify_fx.lab.diagonal.bregman import potential, width_at
from sparsify_fx.lab.diagonal.problem import INITS, SHAPES, Schedule
from sparsify_fx.lab.diagonal.runs import Screened, runs_of

LABELS = {"pilot": "m ⊙ w, PILoT start", "spred": "m ⊙ w, spred start", "l1": "x, L1"}


def draw_distances(
    paths: dict[str, tuple[Tensor, Tensor]], best: dict[str, Schedule], figure: Any
) -> None:
    """Fig. 2 of [Jacobs 2025]: distance to the truth over time with 0.95 bands."""
    (axes,) = panels(figure)
    for index, (init, (times, path)) in enumerate(paths.items()):
        means = [mean_with_interval(of_seeds) for of_seeds in path]
        shade, label = color(index), f"{LABELS[init]}: {best[init]}"
        axes.plot(times, [mean.mean for mean in means], color=shade, label=label)
        # Of the logarithm: mean ± half may reach below zero, where a log axis has no place.
        bounds = [mean.on_log_axis for mean in means]
        low, high = zip(*bounds, strict=True)
        name = "" if index else "0.95 interval of the log of the mean"
        axes.fill_between(
            times, low, high, color=shade, alpha=0.2, linewidth=0, label=name
        )
    axes.set(xlabel="time", ylabel="|x − x*|", yscale="log", ylim=(1e-3, 10))
    axes.grid(alpha=0.3)
    legend(figure, axes, columns=2)


def draw_schedules(screened: Screened, figure: Any) -> None:
    """Fig. 5 of [Jacobs 2025]: every shape at its best strength."""
    every = panels(figure, len(INITS), sharey=True)
    for axes, init in zip(every, INITS, strict=True):
        schedules, times, path = screened[init]
        for place, shape in enumerate(SHAPES):
            where = runs_of(schedules, shape)
            index = min(where, key=lambda run: float(path[-1, :, run].mean()))
            style = {**series(place), "marker": ""}
            label = str(schedules[index])
            axes.plot(times, path[:, :, index].mean(1), label=label, **style)
        axes.set(
            title=LABELS[init],
            xlabel="time",
            ylabel="|x − x*|",
            yscale="log",
            ylim=(1e-3, 10),
        )
        axes.grid(alpha=0.3)
        # Each panel has strengths of its own.
        axes.legend(loc="lower left")


def draw_potential(figure: Any) -> None:
    """Fig. 1 of [Jacobs 2025]: the potential of one weight with x₀ = 1 and m² − w² = 1, less its minimum, by A = ∫α."""
    (axes,) = panels(figure)
    point = torch.linspace(-1, 3, 400, dtype=torch.float64)
    # m and w of x₀ = mw = 1 and m² − w² = 1: m² is the golden ratio and w = 1/m; u₀ and v₀ are their
    # half sum and half difference.
    outer = torch.tensor((0.5 + 1.25**0.5) ** 0.5, dtype=torch.float64)
    up, down = (outer + 1 / outer) / 2, (outer - 1 / outer) / 2
    for index, total in enumerate((0.0, 0.25, 0.5, 1.0, 2.0)):
        values = potential(point, up, down, width_at(up, down, total))
        # A mirror flow knows the slope alone: less its minimum, which moves with A, curves compare.
        style = {**series(index), "marker": ""}
        axes.plot(point, values - values.min(), label=f"A = {total:g}", **style)
    axes.set(xlabel="x", ylabel="R(x) − min R")
    # Of whatever height: other ticks would need other room, and that other ticks.
    axes.locator_params(axis="y", nbins=4)
    axes.grid(alpha=0.3)
    legend(figure, axes)
