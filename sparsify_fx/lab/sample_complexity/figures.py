"""The figures of `sample-complexity`: Figs. 2 to 6 of [Zhang 2021]."""

from __future__ import annotations

from typing import Any

from sparsify_fx.figures import color, legend, panels, series
from sparsify_fx.lab.common.fits import draw_fit
from sparsify_fx.lab.common.statistics import Mean
from sparsify_fx.lab.sample_complexity.pruning import Pruned
from sparsify_fx.lab.sample_complexity.rates import METHODS, Speed, means_of
from sparsify_fx.lab.sample_complexity.runs import Size


def draw(
    figure: Any,
    size: Size,
    radius: dict[int, Mean],
    speed: Speed,
    halves: dict[int, float],
    noise: dict[tuple[float, int], Mean],
    pruned: dict[tuple[str, int], Pruned],
) -> None:
    """Figs. 2, 3, 4, 5 and 6 of [Zhang 2021] as lines."""
    places = panels(figure, 6, shape=0.9, room=5.5)
    _radius(places[0], radius)
    _convergence(places[1], size, speed)
    _rates(places[2], speed)
    _samples(places[3], halves)
    _noise(places[4], size, noise)
    _pruning(places[5], size, pruned)
    for axes in places:
        axes.grid(alpha=0.3)
        # Each panel has lines of its own: below it, where they hide none of its points.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))


def _radius(axes: Any, radius: dict[int, Mean]) -> None:
    # Over sqrt(r), where the theory's law is a straight line.
    roots, means = [kept**0.5 for kept in radius], list(radius.values())
    axes.errorbar(
        roots,
        [m.mean for m in means],
        yerr=[m.half for m in means],
        capsize=2,
        label="mean, 0.95 interval",
        **series(0),
    )
    draw_fit(axes, roots, [m.mean for m in means], color(0))
    axes.set(
        xlabel="sqrt(r)",
        ylabel="radius, relative to |W*|",
        title="Fig. 2: convex region",
    )


def _convergence(axes: Any, size: Size, speed: Speed) -> None:
    ranks = list(dict.fromkeys(kept for _, kept in speed.paths))
    for (method, kept), path in speed.paths.items():
        steps = [size.rate_every * index for index in range(len(path))]
        # The color tells the method, as in the panel of rates, and the dashes tell r.
        style = {**series(ranks.index(kept)), "color": _shade(method), "marker": ""}
        axes.plot(steps, path, label=f"{method}, r = {kept}", **style)
    axes.set(
        xlabel="step",
        ylabel="relative error",
        yscale="log",
        title="Fig. 3a: convergence",
    )


def _rates(axes: Any, speed: Speed) -> None:
    kinds = ((speed.measured, "o", "measured"), (speed.slowest, "x", "slowest mode"))
    for method in METHODS:
        for rates, marker, how in kinds:
            found, shade = means_of(rates, method), _shade(method)
            roots, values = [kept**0.5 for kept in found], list(found.values())
            label = f"{method}, {how}"
            axes.plot(roots, values, marker, color=shade, label=label)
            draw_fit(axes, roots, values, shade)
    axes.set(
        xlabel="sqrt(r)", ylabel="rate per step", title="Fig. 3b: convergence rate"
    )


def _shade(method: str) -> str:
    """The color of accelerated descent, and that of descent."""
    return color(METHODS.index(method))


def _samples(axes: Any, halves: dict[int, float]) -> None:
    axes.plot(list(halves), list(halves.values()), label="measured", **series(0))
    draw_fit(axes, list(halves), list(halves.values()), color(0))
    axes.set(xlabel="r", ylabel="N at which half succeed", title="Fig. 4: samples")


def _noise(axes: Any, size: Size, noise: dict[tuple[float, int], Mean]) -> None:
    roots = [kept**0.5 for kept in size.noise_ranks]
    for index, level in enumerate(size.noise_levels):
        errors = [noise[level, kept].mean for kept in size.noise_ranks]
        style = {**series(index), "linestyle": ""}
        axes.plot(roots, errors, label=f"noise {level:g}", **style)
        draw_fit(axes, roots, errors, color(index))
    axes.set(xlabel="sqrt(r)", ylabel="relative error", title="Fig. 5: noise")


def _pruning(axes: Any, size: Size, pruned: dict[tuple[str, int], Pruned]) -> None:
    for (start, samples), found in pruned.items():
        left = [100 * cycle.left for cycle in found.cycles]
        errors = [cycle.error.mean for cycle in found.cycles]
        # The color tells N, and the dashes whether the start knew of the teacher.
        style = series(size.imp_samples.index(samples))
        dashes = {"linestyle": "-" if start == size.imp_starts[0] else "--"}
        # Named once for each N and once for each start: with every pair the legend would be as large as the panel.
        if start == size.imp_starts[0]:
            label = f"N = {samples}"
        else:
            label = "" if samples != size.imp_samples[0] else f"dashed: {start} start"
        axes.plot(left, errors, label=label, **{**style, **dashes})
    # The teacher's own sparsity, where the theory has the minimum.
    own = 100 * size.imp_kept / size.imp_width
    axes.axvline(own, color="gray", linestyle=":", label="the teacher's sparsity")
    axes.set(
        xlabel="weights left, %", ylabel="test error", yscale="log", title="Fig. 6: IMP"
    )
    # Pruning goes from left to right, as in the paper.
    axes.invert_xaxis()


def draw_transition(
    figure: Any, needed: dict[int, tuple[dict[int, float], float]]
) -> None:
    """Fig. 4 of [Zhang 2021]: share of successes by N for every r."""
    (axes,) = panels(figure)
    for index, (kept, (shares, _)) in enumerate(needed.items()):
        label, style = f"r = {kept}", series(index)
        axes.plot(list(shares), list(shares.values()), label=label, **style)
    axes.set(xlabel="samples N", ylabel="share of successes")
    axes.grid(alpha=0.3)
    legend(figure, axes)
