"""neuron-lrr: iterative magnitude pruning against learning rate rewinding on a single hidden neuron."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.lbfgs import minimize
from sparsify_fx.lab.neuron import (
    QUADRANTS,
    Samples,
    draw_samples,
    first_axis,
    quadrant_name,
    quadrant_starts,
)
from sparsify_fx.lab.neuron_closed import largest_errors
from sparsify_fx.lab.statistics import Mean, mean_with_interval
from sparsify_fx.tables.grids import Grid


@dataclass(frozen=True)
class Size:
    """How large the experiment is. runs: per quadrant; rate: share of a quasi-Newton step; steps: per level."""

    runs: int = 20
    samples: int = 100
    widths: tuple[int, ...] = (1, 2, 5, 10)
    noise: float = 0.01
    larger_noise: float = 0.1
    rate: float = 0.1
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    steps: int = 300
    levels: int = 3


FULL = Size(steps=1000)
_NAMES = tuple(quadrant_name(*quadrant) for quadrant in QUADRANTS)


@dataclass(frozen=True)
class Pruned:
    """Final losses on the noisy training labels, and on the same inputs without noise, [runs]; a after the first level.

    One quadrant after the other.
    """

    training: Tensor
    clean: Tensor
    dense_outer: Tensor


def kept_counts(width: int, levels: int) -> list[int]:
    """Inputs that each level keeps: the same share of the rest each time, one at the end.

    >>> kept_counts(10, 3)
    [5, 2, 1]
    """
    return [
        max(1, round(width ** (1 - level / levels))) for level in range(1, levels + 1)
    ]


def problem_and_start(
    size: Size, width: int, noise: float, seed: int
) -> tuple[Samples, Samples, Tensor]:
    """Noisy samples with x ~ N(0, I/d), the same without noise, and balanced starts w ~ N(0, I/d)."""
    generator = torch.Generator().manual_seed(seed)
    start = quadrant_starts(size.runs, width, generator)
    drawn = draw_samples(first_axis(len(start), width), size.samples, generator)
    clean = Samples(drawn.inputs / width**0.5, drawn.labels / width**0.5)
    noise_of_all = noise * torch.randn(
        clean.labels.shape, generator=generator, dtype=torch.float64
    )
    return Samples(clean.inputs, clean.labels + noise_of_all), clean, start


def prune_and_train(
    size: Size, width: int, *, rewind: bool, noise: float, rate: float, seed: int
) -> Pruned:
    """Train dense, then three times: prune the smallest inputs, rewind (IMP) or not (LRR), train.

    Source: [Gadhikar 2024], section 2.3.
    """
    noisy, clean, start = problem_and_start(size, width, noise, seed)
    free = torch.ones_like(start, dtype=torch.bool)
    found = minimize(
        noisy.loss, noisy.gradient, start, free=free, rate=rate, steps=size.steps
    )
    dense_outer = found[:, 0]
    for count in kept_counts(width, size.levels):
        kept = (
            torch.where(free[:, 1:], found[:, 1:].abs(), -1.0)
            .topk(count, dim=1)
            .indices
        )
        free = torch.cat(
            [free[:, :1], torch.zeros_like(free[:, 1:]).scatter_(1, kept, True)], 1
        )
        begin = torch.where(free, start if rewind else found, 0.0)
        found = minimize(
            noisy.loss, noisy.gradient, begin, free=free, rate=rate, steps=size.steps
        )
    return Pruned(noisy.loss(found), clean.loss(found), dense_outer)


def by_quadrant(values: Tensor) -> tuple[Mean, ...]:
    """Mean and 0.95 interval in each quadrant."""
    return tuple(mean_with_interval(some) for some in values.view(len(QUADRANTS), -1))


Losses = dict[tuple[int, str], tuple[Mean, ...]]


def losses(size: Size, seed: int) -> Losses:
    """Mean final training losses by (d, method)."""
    found = {}
    for width in size.widths:
        for method in ("IMP", "LRR"):
            pruned = prune_and_train(
                size,
                width,
                rewind=method == "IMP",
                noise=size.noise,
                rate=size.rate,
                seed=seed,
            )
            found[width, method] = by_quadrant(pruned.training)
    return found


def flips_by_rate(size: Size, width: int, seed: int) -> dict[float, float]:
    """Share of runs whose a leaves a < 0 in dense training, by the share of a quasi-Newton step."""
    noisy, _, start = problem_and_start(size, width, size.noise, seed)
    below = start[:, 0] < 0
    noisy, start = noisy.some(below), start[below]
    free = torch.ones_like(start, dtype=torch.bool)
    ends = {
        rate: minimize(
            noisy.loss, noisy.gradient, start, free=free, rate=rate, steps=size.steps
        )
        for rate in size.rates
    }
    return {rate: float((end[:, 0] > 0).double().mean()) for rate, end in ends.items()}


def draw(found: Losses, widths: tuple[int, ...], figure: Any) -> None:
    """Fig. 2a and Fig. 18 of [Gadhikar 2024]: final losses with 0.95 intervals, by quadrant and d."""
    figure.set_size_inches(4 * len(widths), 4)
    for axes, width in zip(
        figure.subplots(1, len(widths), sharey=True, squeeze=False).flat,
        widths,
        strict=True,
    ):
        for offset, method in ((-0.1, "IMP"), (0.1, "LRR")):
            means = found[width, method]
            places = [index + offset for index in range(len(means))]
            low = [
                min(mean.half, 0.9 * mean.mean) for mean in means
            ]  # a log axis shows nothing below zero
            spread = [low, [mean.half for mean in means]]
            axes.errorbar(
                places,
                [mean.mean for mean in means],
                yerr=spread,
                fmt="o",
                capsize=3,
                label=method,
            )
        axes.set(title=f"d = {width}", yscale="log", ylabel="final training loss")
        axes.set_xticks(range(len(_NAMES)), _NAMES, rotation=20)
        axes.grid(alpha=0.3)
        axes.legend()


@experiment(
    "neuron-lrr",
    paper="[Gadhikar 2024], section 2, Figs. 2a and 18, Eqs. 4 to 6",
    claim="After pruning an overparameterized neuron to one input, LRR has learned the teacher whenever a(0) > 0, "
    "IMP only where w₁(0) > 0 too.",
)
def neuron_lrr(full: bool, seed: int) -> Findings:
    """Fig. 2a, Fig. 18, and the closed forms."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    found, widest = losses(size, seed), max(size.widths)
    noisy = {
        method: prune_and_train(
            size,
            widest,
            rewind=method == "IMP",
            noise=size.larger_noise,
            rate=size.rate,
            seed=seed,
        )
        for method in ("IMP", "LRR")
    }
    larger = {method: by_quadrant(pruned.training) for method, pruned in noisy.items()}
    clean = {method: by_quadrant(pruned.clean) for method, pruned in noisy.items()}
    errors = largest_errors()
    flips = flips_by_rate(size, widest, seed)
    return Findings(
        grids=(
            Grid(
                "final training loss",
                ("d, method", *_NAMES),
                _rows({f"{d}, {m}": v for (d, m), v in found.items()}),
            ),
            Grid(
                f"d = {widest}, noise {size.larger_noise}: training loss",
                ("method", *_NAMES),
                _rows(larger),
            ),
            Grid(
                f"d = {widest}, noise {size.larger_noise}: without noise",
                ("method", *_NAMES),
                _rows(clean),
            ),
            Grid(
                "largest error of w(t) against integration",
                ("form", "error"),
                tuple(errors.items()),
            ),
            Grid(
                "a(0) < 0: share with a > 0 after dense training",
                ("share of a quasi-Newton step", "flipped"),
                tuple(flips.items()),
            ),
        ),
        checks=(
            *_separations(found, widest, f"noise {size.noise}"),
            *_separations(
                {(widest, method): means for method, means in clean.items()},
                widest,
                "without noise",
            ),
            *_closed_forms(errors),
        ),
        figures={"neuron-lrr": lambda figure: draw(found, size.widths, figure)},
        settings=asdict(size),
        notes=(
            "A full quasi-Newton step can jump over a = 0, which the gradient flow cannot cross; the paper's ordering "
            f"needs damped steps ({size.rate} here).",
        ),
    )


def _rows(found: dict[str, tuple[Mean, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple((name, *map(str, means)) for name, means in found.items())


def _separations(found: Losses, width: int, label: str) -> list[Check]:
    """Every pair of a success and a failure lies 10x apart, and their intervals do not meet."""
    expected = {"IMP": (True, False, False, False), "LRR": (True, False, True, False)}
    good: list[Mean] = []
    bad: list[Mean] = []
    for method, succeeds in expected.items():
        for mean, success in zip(found[width, method], succeeds, strict=True):
            (good if success else bad).append(mean)
    ratio = min(mean.mean for mean in bad) / max(mean.mean for mean in good)
    apart = min(mean.mean - mean.half for mean in bad) > max(
        mean.mean + mean.half for mean in good
    )
    own = found[width, "IMP"][2].mean / found[width, "LRR"][2].mean
    told = f"d = {width}, {label}:"
    return [
        Check(
            f"{told} all failures at least 10 times all successes, intervals apart",
            f"{ratio:.0f}x",
            ratio >= 10 and apart,
        ),
        Check(f"{told} w < 0 < a: IMP at least 10 times LRR", f"{own:.0f}x", own >= 10),
    ]


def _closed_forms(errors: dict[str, float]) -> list[Check]:
    return [
        Check(
            f"{name} equals the integrated flow within 1e-8",
            f"{error:.2g}",
            error < 1e-8,
        )
        for name, error in errors.items()
    ]
