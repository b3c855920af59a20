"""Theorem 1's bounds of the Hessian, and how the samples needed depend on the number of neurons and of inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.sample_complexity.rates import hessian_eigenvalues
from sparsify_fx.lab.sample_complexity.runs import Size, problem, transitions
from sparsify_fx.lab.sample_complexity.teacher import perturbed


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest eigenvalue of ∇²f, times K² and K: constants by Theorem 1.

    secant: K²·⟨∇f(W) − ∇f(W*), W − W*⟩ / |W − W*|², the curvature between W and the teacher, which counts relu's kinks.
    The Hessian does not: where it exists it is that of Gauss and Newton, and never negative. NaN at W*.
    """

    least: Mean
    most: Mean
    secant: Mean


def hessian_bounds(size: Size, seed: int) -> dict[str, dict[float, Bounds]]:
    """By what is varied ("K", "r", "distance"), by its value: Theorem 1's constants.

    K with N in proportion to the unknowns K·r; r at a fixed N, where ε₁ = Θ(sqrt(r/N)); the distance |W − W*| / |W*|.
    """
    kept, neurons = size.need_rank, size.neurons
    by_neurons, by_rank, by_distance = {}, {}, {}
    for count in size.bound_neurons:
        samples = round(size.bound_share * count * kept)
        by_neurons[float(count)] = _bounds(size, count, kept, samples, 0.0, seed)
    for rank in size.bound_ranks:
        by_rank[float(rank)] = _bounds(size, neurons, rank, 3000, 0.0, seed)
    for distance in size.bound_distances:
        by_distance[distance] = _bounds(size, neurons, kept, 3000, distance, seed)
    return {"K": by_neurons, "r": by_rank, "distance": by_distance}


def _bounds(
    size: Size, neurons: int, kept: int, samples: int, distance: float, seed: int
) -> Bounds:
    least, most, secants = [], [], []
    for run in range(size.bound_runs):
        data, teacher, generator = problem(
            1, neurons, size.sample_width, kept, samples, seed * 100_003 + run
        )
        weights = perturbed(teacher, distance, generator)
        values = hessian_eigenvalues(data, weights)
        least.append(neurons**2 * float(values[0]))
        most.append(neurons * float(values[-1]))
        # The gradient vanishes at the teacher, without noise.
        away = weights - teacher
        along = float((data.gradient(weights) * away).sum())
        length = float(away.square().sum())
        secants.append(neurons**2 * along / length if distance else math.nan)
    means = [
        mean_with_interval(torch.tensor(found)) for found in (least, most, secants)
    ]
    return Bounds(*means)


def samples_needed(size: Size, seed: int) -> dict[str, dict[int, float]]:
    """N at which half the runs succeed, by K and by d: Theorem 2 asks for K⁸ r log d."""
    once = replace(
        size, sample_runs=size.need_runs, sample_ranks=(size.need_rank,), steps=1000
    )
    by_neurons, by_width = {}, {}
    for neurons in size.need_neurons:
        # The mean over K neurons makes the gradient of each K times smaller.
        scaled = replace(once, neurons=neurons, rate=size.rate * neurons / size.neurons)
        by_neurons[neurons] = transitions(scaled, seed)[size.need_rank][1]
    for width in size.need_widths:
        wider = replace(once, sample_width=width)
        by_width[width] = transitions(wider, seed)[size.need_rank][1]
    return {"K": by_neurons, "d": by_width}
