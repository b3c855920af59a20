"""How fast Algorithm 1 and plain descent converge to the teacher: measured on runs, and from the Hessian's spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.statistics import Mean, fit_line, mean_with_interval
from sparsify_fx.lab.sample_complexity.runs import Size, problem
from sparsify_fx.lab.sample_complexity.teacher import Masked, perturbed

METHODS = ("AGD", "GD")
Rates = dict[tuple[str, int], Mean]
"""By method and r: the factor by which |W⁽ᵗ⁾ − W*| shrinks in a step."""


@dataclass(frozen=True)
class Speed:
    """Rates measured on runs, rates of the slowest mode at the teacher, and errors of one run by method and r.

    Errors are relative, one every `Size.rate_every` steps.
    """

    measured: Rates
    slowest: Rates
    paths: dict[tuple[str, int], Tensor]


def rates(size: Size, seed: int) -> Speed:
    """Fig. 3: both methods from the same starts on the same data, at Fig. 3's η and β."""
    measured: Rates = {}
    slowest: Rates = {}
    paths: dict[tuple[str, int], Tensor] = {}
    for kept in size.rate_ranks:
        slopes, modes = [], []
        for run in range(size.rate_runs):
            # One run at a time, since each ends at a step of its own. The factor keeps the runs of
            # neighboring seeds apart.
            data, teacher, generator = problem(
                1,
                size.neurons,
                size.rate_width,
                kept,
                size.rate_samples,
                seed * 100_003 + run,
            )
            start = perturbed(teacher, size.rate_start, generator)
            errors = courses(data, teacher, start, size)
            slopes.append([last_rate(errors[:, index], size) for index in range(2)])
            values = hessian_eigenvalues(data, teacher)
            momenta = (size.slow_momentum, 0.0)
            modes.append([asymptotic_rate(values, size.slow_rate, m) for m in momenta])

            # The figure shows one run of the smallest and of the largest r.
            if run == 0 and kept in (size.rate_ranks[0], size.rate_ranks[-1]):
                for index, method in enumerate(METHODS):
                    paths[method, kept] = errors[:, index]
        for index, method in enumerate(METHODS):
            measured[method, kept] = mean_with_interval(torch.tensor(slopes)[:, index])
            slowest[method, kept] = mean_with_interval(torch.tensor(modes)[:, index])
    return Speed(measured, slowest, paths)


def means_of(found: Rates, method: str) -> dict[int, float]:
    """The mean rate of one method by r."""
    return {kept: mean.mean for (name, kept), mean in found.items() if name == method}


def courses(data: Masked, teacher: Tensor, start: Tensor, size: Size) -> Tensor:
    """Relative errors of Algorithm 1 and of descent from one start, [points, 2], every `rate_every` steps, float64.

    Ends when both are below `rate_until` or after `rate_steps` steps. Both share the passes over the data, whose
    labels are the teacher's outputs in float64: the error can fall to 1e-12.
    """
    inputs, goal = data.inputs[0].double(), teacher[0].double()
    # Laid out once, and not again in each of thousands of steps.
    turned = inputs.transpose(1, 2).contiguous()
    scale = inputs.shape[0] * inputs.shape[1]
    labels = (inputs @ goal[..., None])[..., 0].relu().mean(0)
    # The last axis is the method: two columns of one product, with a momentum of β and of 0.
    before = now = start[0].double()[..., None].repeat(1, 1, 2)
    momentum = torch.tensor([size.slow_momentum, 0.0], dtype=torch.float64)
    errors = [_errors(now, goal)]
    for index in range(size.rate_steps):
        hidden = inputs @ now
        error = hidden.relu().mean(0) - labels[:, None]
        slope = turned @ ((hidden > 0) * error) / scale
        now, before = now - size.slow_rate * slope + momentum * (now - before), now
        if (index + 1) % size.rate_every == 0:
            errors.append(_errors(now, goal))
            if float(errors[-1].max()) < size.rate_until:
                break
    return torch.stack(errors)


def _errors(weights: Tensor, goal: Tensor) -> Tensor:
    """|W − W*| / |W*| of both methods, [2]."""
    off = (weights - goal[..., None]).flatten(0, 1)
    relative: Tensor = off.norm(dim=0) / goal.norm()
    return relative


def last_rate(errors: Tensor, size: Size) -> float:
    """exp of the slope of log error by step, over the last three decades above `rate_until`.

    >>> round(last_rate(0.5 ** torch.arange(10.0).double(), Size(rate_every=1)), 6)
    0.5
    """
    # The late part alone: at first faster modes still fade, and the slope is steeper than the rate.
    least = max(size.rate_until, float(errors[-1]))
    steps = torch.arange(len(errors), dtype=torch.float64) * size.rate_every
    late = (errors >= least) & (errors <= 1e3 * least)
    return math.exp(fit_line(steps[late], errors[late].log()).slope)


def hessian_eigenvalues(data: Masked, teacher: Tensor) -> Tensor:
    """Eigenvalues of ∇²f(W*) of one run without noise, where the residual vanishes, ascending, [K·r]."""
    # Where the residual vanishes the Hessian is that of Gauss and Newton: outer products of the slopes.
    active = (data.inputs[0] @ teacher[0, ..., None] > 0).to(data.inputs.dtype)
    slopes = (data.inputs[0] * active).transpose(0, 1).flatten(1) / data.inputs.shape[1]
    values: Tensor = torch.linalg.eigvalsh((slopes.T @ slopes).double() / len(slopes))
    return values


def asymptotic_rate(values: Tensor, rate: float, momentum: float) -> float:
    """The slowest mode's factor per step of W⁽ᵗ⁺¹⁾ = W⁽ᵗ⁾ − ηHW⁽ᵗ⁾ + β(W⁽ᵗ⁾ − W⁽ᵗ⁻¹⁾): roots of z² − (1 + β − ηλ)z + β.

    >>> round(asymptotic_rate(torch.tensor([0.1, 1.0]), 0.5, 0.0), 6)
    0.95
    """
    half = (1 + momentum - rate * values.double()) / 2
    # Two real roots, the larger decides; or a complex pair, each of size sqrt(β).
    square = half.square() - momentum
    real = half.abs() + square.clamp(min=0).sqrt()
    return float(torch.where(square >= 0, real, momentum**0.5).max())
