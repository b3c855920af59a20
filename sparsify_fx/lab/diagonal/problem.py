"""Sparse regression with a diagonal linear network: problem, schedules, gradient descent and exact flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.flow import integrate
from sparsify_fx.parameterizations.product import Product


@dataclass(frozen=True)
class Regression:
    """f(x) = 1/(2d) |Zx − y|² for several seeds: Z [seeds, d, n], y = Zx*, x* and x₀ [seeds, n]."""

    inputs: Tensor
    truth: Tensor
    start: Tensor

    def gradient(self, point: Tensor) -> Tensor:
        """∇f = Zᵀ Z (x − x*) / d, [seeds, runs, n]."""
        # y = Zx* without noise, so that the residual is Z(x − x*) and labels need not be kept.
        error = (point - self.truth[:, None]) @ self.inputs.transpose(1, 2)
        slope: Tensor = error @ self.inputs
        return slope / self.inputs.shape[1]

    def distance(self, point: Tensor) -> Tensor:
        """|x − x*|, [seeds, runs]."""
        size: Tensor = torch.linalg.vector_norm(point - self.truth[:, None], dim=-1)
        return size


def draw_regression(
    seeds: int, samples: int, width: int, nonzeros: int, seed: int
) -> Regression:
    """z ~ N(0, I), `nonzeros` entries of x* are ±1, x₀ ~ N(0, I/n); float64. Source: [Jacobs 2025], section 4."""
    # Which problems a seed gives depends on the order of these draws, and on the float32 of the places.
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(
        seeds, samples, width, generator=generator, dtype=torch.float64
    )
    places = torch.rand(seeds, width, generator=generator).topk(nonzeros, dim=1).indices
    signs = torch.randn(
        seeds, nonzeros, generator=generator, dtype=torch.float64
    ).sign()
    truth = torch.zeros(seeds, width, dtype=torch.float64).scatter_(1, places, signs)
    start = torch.randn(
        seeds, width, generator=generator, dtype=torch.float64
    ) / math.sqrt(width)
    return Regression(inputs, truth, start)


SHAPES = ("constant", "harmonic", "quadratic", "geometric")


@dataclass(frozen=True)
class Schedule:
    """α(t) of one of SHAPES with ∫α = total over [0, time]: constant, 1/(1 + s), 1/(1 + s)², 0.95^s, s = t/unit.

    Source: [Jacobs 2025], appendix C.1, there as sums over steps.
    """

    shape: str
    total: float
    time: float
    unit: float = 1.0

    def __str__(self) -> str:
        return f"{self.shape}, A = {self.total:g}"

    def integral(self, time: Tensor) -> Tensor:
        """A(t) = ∫₀ᵗ α.

        >>> Schedule("geometric", 2.0, 100.0).integral(torch.tensor([0.0, 100.0]).double()).tolist()
        [0.0, 2.0]
        """
        # Scaled by the whole integral, so that shapes of equal `total` differ in when they act alone.
        return self.total * _grown(self.shape, time / self.unit) / self._whole()

    def strength(self, time: Tensor) -> Tensor:
        """α(t) = A'(t)."""
        scaled = time / self.unit
        slope = {
            "constant": torch.ones_like(time),
            "harmonic": 1 / (1 + scaled),
            "quadratic": (1 + scaled) ** -2,
            "geometric": 0.95**scaled,
        }[self.shape]
        return self.total * slope / self._whole() / self.unit

    def _whole(self) -> Tensor:
        return _grown(
            self.shape, torch.tensor(self.time / self.unit, dtype=torch.float64)
        )


def _grown(shape: str, time: Tensor) -> Tensor:
    """∫₀ᵗ of the shape alone, in units of time: t, log(1 + t), t/(1 + t) or (1 − 0.95ᵗ)/−log 0.95."""
    if shape == "constant":
        return time
    if shape == "harmonic":
        return torch.log1p(time)
    return (
        time / (1 + time)
        if shape == "quadratic"
        else (1 - 0.95**time) / -math.log(0.95)
    )


INITS = ("pilot", "spred", "l1")
STARTS = ("pilot", "spred", "spred-float64", "spred-float32")


def factors(start: Tensor, init: str) -> tuple[Tensor, Tensor]:
    """m and w with m ⊙ w = x₀, by one of STARTS.

    pilot: m² − w² = 1. spred: abs(m) = abs(w) to the last bit. spred-float64, spred-float32: m = sqrt(abs(x₀)) and
    w = x₀/m in that precision, whose rounding leaves abs(m) and abs(w) an ulp apart.
    """
    if init == "pilot":
        split = Product(1.0).split(start)
        return split["m"], split["w"]
    # From one root, with the sign put on w: abs(m) and abs(w) are the same bits. Division would not give that.
    if init == "spred":
        root = start.abs().sqrt()
        return root, start.sign() * root
    # As libraries do it: w = x₀/m rounds, and descent lets the difference of an ulp grow.
    kind = {"spred-float64": torch.float64, "spred-float32": torch.float32}[init]
    rounded = start.to(kind)
    root = rounded.abs().sqrt()
    return root.double(), (rounded / root).double()


def descend(
    problem: Regression,
    init: str,
    schedules: Sequence[Schedule],
    *,
    rate: float,
    points: int = 100,
) -> tuple[Tensor, Tensor]:
    """Gradient descent on f(m ⊙ w) + α(|m|² + |w|²), or on f(x) + 2α|x|₁ for init "l1"; one run per seed and schedule.

    Returns times [points + 1] and distances |x − x*| [points + 1, seeds, runs].
    """
    # 1. All schedules advance as one batch; their strengths at every step are known beforehand.
    time = schedules[0].time
    steps = round(time / rate)
    every = max(1, steps // points)
    start = problem.start[:, None].repeat(1, len(schedules), 1)
    first, second = start, torch.zeros_like(start)
    if init != "l1":
        first, second = factors(start, init)
    moments = torch.arange(steps, dtype=torch.float64) * rate
    by_schedule = [2 * schedule.strength(moments) for schedule in schedules]
    strengths = rate * torch.stack(by_schedule, 1)[:, :, None]

    # 2. Descend. x with L1 lives in `first`; with factors both move by the old values of each other.
    kept = [problem.distance(start)]
    for index in range(steps):
        # 2α is the slope of α(m² + w²) by m over m, and the strength of |x|₁ that has the same minimum
        # over m ⊙ w = x: a schedule means the same to both.
        if init == "l1":
            first = (
                first - rate * problem.gradient(first) - strengths[index] * first.sign()
            )
        else:
            slope, left = rate * problem.gradient(first * second), 1 - strengths[index]
            first, second = left * first - slope * second, left * second - slope * first
        if (index + 1) % every == 0:
            kept.append(problem.distance(first if init == "l1" else first * second))
    times = torch.arange(len(kept), dtype=torch.float64) * every * rate
    return times, torch.stack(kept)


def exact_flow(
    problem: Regression,
    init: str,
    schedules: Sequence[Schedule],
    times: Tensor,
    *,
    rtol: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """The limit of small steps: x(t) = u₀² exp(−2L − 4A) − v₀² exp(2L − 4A), dL/dt = ∇f(x), L(0) = 0.

    u₀ = (m₀ + w₀)/2, v₀ = (m₀ − w₀)/2. A balanced start has u₀ = 0 or v₀ = 0: x keeps its sign for ever.

    Returns x and L, each [times, seeds, runs, n].

    Source: [Jacobs 2025], Lemma B.1 and, for the balanced start, Eq. 7.
    """
    start = problem.start[:, None].repeat(1, len(schedules), 1)
    first, second = factors(start, init)
    up, down = ((first + second) / 2).square(), ((first - second) / 2).square()

    def point(moment: Tensor, impulse: Tensor) -> Tensor:
        totals = torch.stack([schedule.integral(moment) for schedule in schedules])
        decay = -4 * totals[:, None]
        # One exponent for L and A together: apart, they would overflow and vanish where both are large.
        growing = up * torch.exp(decay - 2 * impulse)
        return growing - down * torch.exp(decay + 2 * impulse)

    def field(moment: Tensor, flat: Tensor) -> Tensor:
        return problem.gradient(point(moment[0], flat.view(start.shape))).view(1, -1)

    # Only L is integrated: x follows in closed form, so that a balanced start keeps its signs exactly.
    # One run for the integrator, so that all share its times, which `point` takes as one number.
    nothing = start.new_zeros(1, start.numel())
    flat = integrate(field, nothing, times, rtol=rtol, atol=1e-9)
    impulses = flat.view(-1, *start.shape)
    points = [point(*pair) for pair in zip(times, impulses, strict=True)]
    return torch.stack(points), impulses
