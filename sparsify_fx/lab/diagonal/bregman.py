"""The time-dependent Bregman potential of m ⊙ w with weight decay, and its mirror flow checked along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.flow import integrate
from sparsify_fx.lab.diagonal.problem import Regression, Schedule, factors


def width_at(
    up: Tensor, down: Tensor, total: Tensor | float, exponent: float = 4.0
) -> Tensor:
    """a_t = 2u₀v₀ exp(−4A), A = ∫α.

    The exponent that Lemma B.1 implies is 4; [Jacobs 2025] prints 2 in Theorem 2.1, Eq. 6 and Lemma B.2.
    """
    return 2 * up * down * torch.exp(-exponent * torch.as_tensor(total, dtype=up.dtype))


def potential(point: Tensor, up: Tensor, down: Tensor, width: Tensor) -> Tensor:
    """R_a(x) = ½ [x arcsinh(x/a) − sqrt(x² + a²) − x log(u₀/v₀)], elementwise. Source: [Jacobs 2025], Theorem 2.1."""
    return (
        point * torch.asinh(point / width)
        - torch.hypot(point, width)
        - point * torch.log(up / down)
    ) / 2


def mirror(point: Tensor, up: Tensor, down: Tensor, width: Tensor) -> Tensor:
    """dR_a/dx = ½ [arcsinh(x/a) − log(u₀/v₀)], elementwise.

    >>> up, down = torch.tensor(0.75).double(), torch.tensor(0.25).double()
    >>> bool(mirror(up**2 - down**2, up, down, width_at(up, down, 0.0)).abs() < 1e-12)  # zero at x₀
    True
    """
    return (torch.asinh(point / width) - torch.log(up / down)) / 2


@dataclass(frozen=True)
class Residuals:
    """Largest errors along a trajectory: of Lemma B.1, and of Theorem 2.1 with a's exponent 4 and as printed, 2."""

    lemma: float
    theorem: float
    printed: float


def check_mirror_flow(
    problem: Regression, schedule: Schedule, times: Tensor
) -> Residuals:
    """Integrate [Jacobs 2025]'s Eq. 11 for m and w, with L = ∫∇f beside them, and compare.

    Lemma B.1: x = u₀² exp(−2L − 4A) − v₀² exp(2L − 4A). Theorem 2.1, integrated: ∇R_{a_t}(x_t) − ∇R_{a_0}(x_0) = −L.
    """
    # 1. One state of m, w and L: integrated together, all three have the same step sizes and the same
    # error control, so that a residual is the theorem's and not the quadrature's.
    start = problem.start[:, None]
    first, second = factors(start, "pilot")
    size = start.numel()

    def field(moment: Tensor, state: Tensor) -> Tensor:
        m, w, _ = state.view(3, *start.shape)
        slope, decay = problem.gradient(m * w), 2 * schedule.strength(moment[0])
        return torch.stack(
            [-slope * w - decay * m, -slope * m - decay * w, slope]
        ).view(1, -1)

    # All seeds are one run of the integrator: their times must agree, since α(t) is one for all.
    begin = torch.cat([first.flatten(), second.flatten(), start.new_zeros(size)])[None]
    path = integrate(field, begin, times, rtol=1e-10, atol=1e-13).view(
        len(times), 3, *start.shape
    )

    # 2. Lemma B.1: x from L and A alone, against m ⊙ w.
    point, impulse = path[:, 0] * path[:, 1], path[:, 2]
    total = schedule.integral(times).view(-1, 1, 1, 1)
    up, down = (first + second) / 2, (first - second) / 2
    lemma = up.square() * torch.exp(
        -2 * impulse - 4 * total
    ) - down.square() * torch.exp(2 * impulse - 4 * total)

    # 3. Theorem 2.1, whose potential depends on a_t: with the exponent that the lemma implies, which must
    # leave nothing, and with the printed one.
    before = mirror(point[0], up, down, width_at(up, down, 0.0))
    residuals = []
    for exponent in (4.0, 2.0):
        after = mirror(point, up, down, width_at(up, down, total, exponent))
        residuals.append(float((after - before + impulse).abs().max()))
    return Residuals(float((lemma - point).abs().max()), *residuals)
