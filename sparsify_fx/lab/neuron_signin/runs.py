"""What `neuron-signin` measures: recoveries by quadrant, learning rate, β, scale and width."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsify_fx.lab.common.flow import integrate
from sparsify_fx.lab.common.neuron import (
    QUADRANTS,
    Population,
    Problem,
    balanced_start,
    draw_samples,
    first_axis,
    quadrant_starts,
)
from sparsify_fx.lab.neuron_signin.descent import (
    descend,
    descend_factors,
    flow,
    signin_flow,
)

RECOVERED = 1e-3
"""A run has recovered the teacher when its loss is below this; the loss of the zero function is 0.25."""


@dataclass(frozen=True)
class Size:
    """How large the experiment is; width: d of the overparameterized neuron."""

    runs: int = 100
    width: int = 5
    samples: int = 100
    rate: float = 0.01
    steps: int = 20_000
    rates: tuple[float, ...] = (0.001, 0.01)
    larger_rates: tuple[float, ...] = (0.02, 0.05)
    time: float = 200.0
    sparse_beta: tuple[float, float] = (2.0, 1.0)
    dense_beta: tuple[float, float] = (1.0, 1.0)
    scales: tuple[float, ...] = (0.1, 0.3, 0.5, 1.0, 2.0)
    widths: tuple[int, ...] = (2, 3, 5, 10, 20)


FULL = Size(steps=200_000)
METHODS = ("sparse", "overparam", "sign-in", "overparam + sign-in")
PAPER = {
    "sparse": (1, 0, 0, 0),
    "overparam": (1, 0, 1, 0),
    "sign-in": (1, 1, 0, 0),
    "overparam + sign-in": (1, 1, 1, 1),
}
"""Table 8 of [Gadhikar 2025], quadrants in the order of QUADRANTS."""


def shares(recovered: Tensor) -> tuple[float, ...]:
    """The share of True in each quadrant; `recovered` holds one quadrant after the other."""
    return tuple(recovered.double().view(len(QUADRANTS), -1).mean(1).tolist())


def start_of(
    size: Size, width: int, seed: int, *, scale: float = 1.0
) -> tuple[Tensor, torch.Generator]:
    """`size.runs` starts w ~ N(0, scale²·I), |a| = |w| per quadrant, and the generator for what follows."""
    generator = torch.Generator().manual_seed(seed)
    # `quadrant_starts` draws w ~ N(0, I/d), as [Gadhikar 2024] does; here the variance does not fall with d.
    scale = scale * width**0.5
    return quadrant_starts(size.runs, width, generator, scale=scale), generator


def by_descent(size: Size, method: str, seed: int) -> tuple[Tensor, Tensor, Problem]:
    """Starts, ends and problem of gradient descent with `method` on noiseless samples, all quadrants."""
    width = size.width if "overparam" in method else 1
    start, generator = start_of(size, width, seed)
    problem = draw_samples(first_axis(len(start), width), size.samples, generator)
    if "sign-in" in method:
        # At d = 1 recovery needs β₁ > β₂: a has to turn positive before w has reached zero.
        beta = size.dense_beta if width > 1 else size.sparse_beta
        end = descend_factors(
            problem, start, beta=beta, rate=size.rate, steps=size.steps
        )
    else:
        end = descend(problem, start, rate=size.rate, steps=size.steps)
    return start, end, problem


def by_flow(
    size: Size, method: str, seed: int, *, time: float, scale: float = 1.0
) -> Tensor:
    """The recovered runs of the exact gradient flow, infinitely many samples, all quadrants."""
    width = size.width if "overparam" in method else 1
    start, _ = start_of(size, width, seed, scale=scale)
    problem = Population(first_axis(len(start), width))
    beta = size.dense_beta if width > 1 else size.sparse_beta
    field = signin_flow(problem, beta) if "sign-in" in method else flow(problem)
    end = integrate(
        field, start, torch.tensor([0.0, time]).double(), rtol=1e-7, atol=1e-10
    )[-1]
    return problem.loss(end) < RECOVERED


def escape_by_imbalance(
    imbalances: tuple[float, ...], time: float, seed: int, runs: int
) -> dict[float, float]:
    """Share of d = 1 flows from a < 0 < w that recover when a² − w² starts at the given number instead of 0."""
    found = {}
    for imbalance in imbalances:
        start = balanced_start(
            runs, 1, torch.Generator().manual_seed(seed), outer=-1, first=1
        )
        # a² = w² + imbalance to first order, and a = −w to the last bit where the imbalance is 0: rounding
        # would be an imbalance of its own.
        start[:, 0] = -(start[:, 1] + imbalance / (2 * start[:, 1]))
        problem = Population(first_axis(runs, 1))
        end = integrate(flow(problem), start, torch.tensor([0.0, time]).double())[-1]
        found[imbalance] = float((problem.loss(end) < RECOVERED).double().mean())
    return found


def sign_recoveries(size: Size, rate: float, seed: int) -> tuple[float, float]:
    """Table 2: shares of runs from a < 0 that end with a > 0 at time `size.time`: plain, Sign-In."""
    generator = torch.Generator().manual_seed(seed)
    start = balanced_start(size.runs, size.width, generator, outer=-1) * size.width**0.5
    problem = draw_samples(first_axis(size.runs, size.width), size.samples, generator)
    # As many steps as make the same time of flow at every rate: a smaller step is not a shorter run.
    steps = round(size.time / rate)
    plain = descend(problem, start, rate=rate, steps=steps)
    factored = descend_factors(
        problem, start, beta=size.dense_beta, rate=rate, steps=steps
    )
    flipped = [(end[:, 0] > 0).double().mean() for end in (plain, factored)]
    return float(flipped[0]), float(flipped[1])


def by_beta(
    size: Size, betas: tuple[tuple[float, float], ...], seed: int
) -> dict[tuple[float, float], float]:
    """Share of d = 1 Sign-In flows from a < 0 < w that recover, by (β₁, β₂)."""
    start = balanced_start(
        size.runs, 1, torch.Generator().manual_seed(seed), outer=-1, first=1
    )
    problem = Population(first_axis(size.runs, 1))
    times = torch.tensor([0.0, size.time]).double()
    ends = {
        beta: integrate(signin_flow(problem, beta), start, times)[-1] for beta in betas
    }
    return {
        beta: float((problem.loss(end) < RECOVERED).double().mean())
        for beta, end in ends.items()
    }


def by_scale(size: Size, seed: int) -> dict[float, tuple[float, ...]]:
    """Recovery of overparam + Sign-In by the size of the initial weights, as exact flow."""
    return {
        scale: shares(
            by_flow(size, "overparam + sign-in", seed, time=size.time, scale=scale)
        )
        for scale in size.scales
    }


def failures_by_width(size: Size, seed: int) -> dict[int, float]:
    """Share of overparam + Sign-In runs from a < 0 that fail, with a teacher w ~ N(0, I), by input width d."""
    found = {}
    for width in size.widths:
        generator = torch.Generator().manual_seed(seed)
        start = balanced_start(size.runs, width, generator, outer=-1) * width**0.5
        problem = Population(
            torch.randn(size.runs, width, generator=generator, dtype=torch.float64)
        )
        field = signin_flow(problem, size.dense_beta)
        end = integrate(
            field, start, torch.tensor([0.0, size.time]).double(), rtol=1e-6, atol=1e-9
        )[-1]
        # Teachers differ in length, and with them the loss of the zero function, |v|²/4; RECOVERED is
        # meant for the 0.25 of a teacher of length 1.
        zero = problem.teacher.square().sum(1) / 4
        found[width] = float(
            (problem.loss(end) >= 4 * RECOVERED * zero).double().mean()
        )
    return found


def lead(start: Tensor, beta: float) -> Tensor:
    """How much faster Sign-In moves a than the norm of w at a balanced start, when ∇L is along (a, w), [runs].

    sqrt(a² + β) − Σ_k sqrt(w_k² + β) w_k²/|w|²: 0 when one coordinate holds all of w. Compare [Gadhikar 2025], Eq. 4.
    """
    squares = start[:, 1:].square()
    inner = ((squares + beta).sqrt() * squares).sum(1) / squares.sum(1)
    return (start[:, 0].square() + beta).sqrt() - inner


def paths(
    size: Size, method: str, seed: int, *, each: int = 6, time: float = 40.0
) -> Tensor:
    """Flows of `each` starts per quadrant, [steps, 4·each, 1 + d], for the figures."""
    width = size.width if "overparam" in method else 1
    few = replace(size, runs=each)
    start, _ = start_of(few, width, seed)
    problem = Population(first_axis(len(start), width))
    beta = size.dense_beta if width > 1 else size.sparse_beta
    field = signin_flow(problem, beta) if "sign-in" in method else flow(problem)
    # Evenly in log time: paths turn early, and then creep along the hyperbola a·w₁ = 1.
    times = torch.cat([torch.zeros(1), torch.logspace(-2, 0, 60) * time]).double()
    return integrate(field, start, times, rtol=1e-6, atol=1e-9)
