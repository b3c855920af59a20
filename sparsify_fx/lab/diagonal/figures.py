"""The figures of `diagonal`: distances over time, schedules, and the potential."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify_fx.lab.common.statistics import t_quantile
from sparsify_fx.lab.diagonal.bregman import potential, width_at
from sparsify_fx.lab.diagonal.problem import INITS, SHAPES, Schedule
from sparsify_fx.lab.diagonal.runs import Screened, runs_of

LABELS = {"pilot": "m ⊙ w, PILoT start", "spred": "m ⊙ w, spred start", "l1": "x, L1"}


def draw_distances(
    paths: dict[str, tuple[Tensor, Tensor]], best: dict[str, Schedule], figure: Any
) -> None:
    """Fig. 2 of [Jacobs 2025]: distance to the truth over time with 0.95 bands."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    for init, (times, path) in paths.items():
        mean, half = _band(path)
        (line,) = axes.plot(times, mean, label=f"{LABELS[init]}: {best[init]}")
        # A log axis shows nothing at or below zero, and would drop the whole band there.
        axes.fill_between(
            times,
            (mean - half).clamp(min=1e-9),
            mean + half,
            color=line.get_color(),
            alpha=0.2,
        )
    axes.set(xlabel="time", ylabel="|x − x*|", yscale="log", ylim=(1e-3, 10))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_schedules(screened: Screened, figure: Any) -> None:
    """Fig. 5 of [Jacobs 2025]: every shape at its best strength."""
    figure.set_size_inches(12, 4)
    for axes, init in zip(figure.subplots(1, 3, sharey=True), INITS, strict=True):
        schedules, times, path = screened[init]
        for shape in SHAPES:
            where = runs_of(schedules, shape)
            index = min(where, key=lambda run: float(path[-1, :, run].mean()))
            axes.plot(times, path[:, :, index].mean(1), label=str(schedules[index]))
        axes.set(
            title=LABELS[init],
            xlabel="time",
            ylabel="|x − x*|",
            yscale="log",
            ylim=(1e-3, 10),
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def draw_potential(figure: Any) -> None:
    """Fig. 1 of [Jacobs 2025]: the potential of one weight with x₀ = 1 and m² − w² = 1, less its minimum, by A = ∫α."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    point = torch.linspace(-1, 3, 400, dtype=torch.float64)
    # m and w of x₀ = mw = 1 and m² − w² = 1: m² is the golden ratio and w = 1/m; u₀ and v₀ are their
    # half sum and half difference.
    outer = torch.tensor((0.5 + 1.25**0.5) ** 0.5, dtype=torch.float64)
    up, down = (outer + 1 / outer) / 2, (outer - 1 / outer) / 2
    for total in (0.0, 0.25, 0.5, 1.0, 2.0):
        values = potential(point, up, down, width_at(up, down, total))
        # A mirror flow knows the slope alone: less its minimum, which moves with A, curves compare.
        axes.plot(point, values - values.min(), label=f"A = {total:g}")
    axes.set(xlabel="x", ylabel="R(x) − min R")
    axes.grid(alpha=0.3)
    axes.legend()


def _band(path: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the seeds and half width of its 0.95 interval, at each point in time."""
    seeds = path.shape[1]
    return path.mean(1), t_quantile(seeds - 1) * path.std(1) / seeds**0.5
