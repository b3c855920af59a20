"""The figures of `sample-complexity`: Figs. 2 to 6 of [Zhang 2021]."""

from __future__ import annotations

from typing import Any

from sparsify_fx.lab.common.statistics import Mean
from sparsify_fx.lab.sample_complexity.rates import METHODS, Speed, means_of
from sparsify_fx.lab.sample_complexity.runs import Pruned, Size


def draw(
    figure: Any,
    size: Size,
    radius: dict[int, Mean],
    speed: Speed,
    halves: dict[int, float],
    noise: dict[tuple[float, int], Mean],
    pruned: Pruned,
) -> None:
    """Figs. 2, 3, 4, 5 and 6 of [Zhang 2021] as lines."""
    figure.set_size_inches(13, 8)
    places = figure.subplots(2, 3)
    _radius(places[0, 0], radius)
    _convergence(places[0, 1], size, speed)
    _rates(places[0, 2], speed)
    places[1, 0].plot(list(halves), list(halves.values()), "o-")
    places[1, 0].set(
        xlabel="r", ylabel="N at which half succeed", title="Fig. 4: samples"
    )
    _noise(places[1, 1], size, noise)
    _pruning(places[1, 2], size, pruned)
    for axes in places.flat:
        axes.grid(alpha=0.3)
        # Panels of a single line have no labels, and matplotlib warns of an empty legend.
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


def _radius(axes: Any, radius: dict[int, Mean]) -> None:
    # Over sqrt(r), where the theory's law is a straight line.
    roots, means = [kept**0.5 for kept in radius], list(radius.values())
    axes.errorbar(
        roots,
        [m.mean for m in means],
        yerr=[m.half for m in means],
        fmt="o-",
        capsize=3,
    )
    axes.set(
        xlabel="sqrt(r)",
        ylabel="radius, relative to |W*|",
        title="Fig. 2: convex region",
    )


def _convergence(axes: Any, size: Size, speed: Speed) -> None:
    for (method, kept), path in speed.paths.items():
        steps = [size.rate_every * index for index in range(len(path))]
        style = "-" if method == "AGD" else "--"
        axes.plot(steps, path, style, label=f"{method}, r = {kept}")
    axes.set(
        xlabel="step",
        ylabel="relative error",
        yscale="log",
        title="Fig. 3a: convergence",
    )


def _rates(axes: Any, speed: Speed) -> None:
    kinds = (
        (speed.measured, "o-", "measured"),
        (speed.slowest, "x:", "slowest mode"),
    )
    for method, color in zip(METHODS, ("tab:blue", "tab:orange"), strict=True):
        for rates, style, how in kinds:
            found = means_of(rates, method)
            axes.plot(
                [kept**0.5 for kept in found],
                list(found.values()),
                style,
                color=color,
                label=f"{method}, {how}",
            )
    axes.set(
        xlabel="sqrt(r)", ylabel="rate per step", title="Fig. 3b: convergence rate"
    )


def _noise(axes: Any, size: Size, noise: dict[tuple[float, int], Mean]) -> None:
    roots = [kept**0.5 for kept in size.noise_ranks]
    for level in size.noise_levels:
        errors = [noise[level, kept].mean for kept in size.noise_ranks]
        axes.plot(roots, errors, "o-", label=f"noise {level:g}")
    axes.set(xlabel="sqrt(r)", ylabel="relative error", title="Fig. 5: noise")


def _pruning(axes: Any, size: Size, pruned: Pruned) -> None:
    for samples, rows in pruned.items():
        left = [100 * share for share, _ in rows]
        axes.plot(left, [m.mean for _, m in rows], "o-", label=f"N = {samples}")
    # The teacher's own sparsity, where the theory has the minimum.
    axes.axvline(100 * size.imp_kept / size.imp_width, color="gray", linestyle=":")
    axes.set(
        xlabel="weights left, %", ylabel="test error", yscale="log", title="Fig. 6: IMP"
    )
    # Pruning goes from left to right, as in the paper.
    axes.invert_xaxis()


def draw_transition(
    figure: Any, needed: dict[int, tuple[dict[int, float], float]]
) -> None:
    """Fig. 4 of [Zhang 2021]: share of successes by N for every r."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    for kept, (shares, _) in needed.items():
        axes.plot(list(shares), list(shares.values()), "o-", label=f"r = {kept}")
    axes.set(xlabel="samples N", ylabel="share of successes")
    axes.grid(alpha=0.3)
    axes.legend()
