"""What `neuron-lrr` measures: final losses of IMP and LRR, and which runs change the sign of a."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.neuron import (
    QUADRANTS,
    Samples,
    draw_samples,
    first_axis,
    quadrant_starts,
)
from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.neuron_lrr.lbfgs import minimize


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
METHODS = ("IMP", "LRR")


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
    # width^(1 − level/levels): a geometric sequence from the width down to one input, rounded.
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
    # x ~ N(0, I/d) instead of N(0, I): relu is homogeneous, so that inputs and labels shrink alike and
    # the teacher stays the same.
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
    # 1. Dense. Only the outer weight a is looked at: flips of its sign are what LRR inherits.
    noisy, clean, start = problem_and_start(size, width, noise, seed)
    free = torch.ones_like(start, dtype=torch.bool)
    found = minimize(
        noisy.loss, noisy.gradient, start, free=free, rate=rate, steps=size.steps
    )
    dense_outer = found[:, 0]

    # 2. Levels. IMP and LRR differ in one thing: what the weights that stay begin with.
    for count in kept_counts(width, size.levels):
        # Pruned weights rank below those that live, even below one that is exactly zero.
        sizes = torch.where(free[:, 1:], found[:, 1:].abs(), -1.0)
        kept = sizes.topk(count, dim=1).indices
        alive = torch.zeros_like(free[:, 1:]).scatter_(1, kept, True)
        free = torch.cat([free[:, :1], alive], 1)
        begin = torch.where(free, start if rewind else found, 0.0)
        found = minimize(
            noisy.loss, noisy.gradient, begin, free=free, rate=rate, steps=size.steps
        )
    return Pruned(noisy.loss(found), clean.loss(found), dense_outer)


def by_quadrant(values: Tensor) -> tuple[Mean, ...]:
    """Mean and 0.95 interval in each quadrant."""
    return tuple(mean_with_interval(some) for some in values.view(len(QUADRANTS), -1))


# By (d, method): one mean for each quadrant.
Losses = dict[tuple[int, str], tuple[Mean, ...]]


def losses(size: Size, seed: int) -> Losses:
    """Mean final training losses by (d, method)."""
    found = {}
    for width in size.widths:
        for method in METHODS:
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
    # The share is of the runs that start below zero: only they have it to leave.
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
