"""The closed forms of the balanced neuron at d = 1 ([Gadhikar 2024], Eqs. 4 to 6): as printed, and corrected."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparsify_fx.lab.common.flow import Field, integrate

Form = Callable[[Tensor, float, float, float], Tensor]
"""(t, w(0), C₁, C̃₂) -> w(t) of dw/dt = −C₁w³ + C̃₂w."""


def corrected(time: Tensor, start: float, first: float, second: float) -> Tensor:
    """w(t) for every sign of C̃₂ but 0: sign(w₀) sqrt(C̃₂ / (C₁ + (C̃₂/w₀² − C₁) exp(−2C̃₂t))).

    u = w⁻² turns dw/dt = −C₁w³ + C̃₂w into the linear du/dt = 2C₁ − 2C̃₂u.
    """
    # One form for both signs of C̃₂: where it is negative, `bottom` is too, and their ratio positive.
    bottom = first + (second / start**2 - first) * torch.exp(-2 * second * time)
    size: Tensor = (second / bottom).sqrt()
    return size if start > 0 else -size


def printed_4(time: Tensor, start: float, first: float, second: float) -> Tensor:
    """Eq. 4 as printed, for C̃₂ > 0: exponents 2C̃₂t and 4C̃₂t where C̃₂t and 2C̃₂t belong."""
    gap: float = second - first * start**2
    inner = first * start**2 * torch.exp(4 * second * time) / gap + 1
    top = torch.exp(2 * second * time) * math.sqrt(second) * start
    return top / (math.sqrt(gap) * inner.sqrt())


def printed_5(time: Tensor, start: float, first: float, second: float) -> Tensor:
    """Eq. 5 as printed, for C̃₂ < 0: its denominator lacks a square root."""
    top = math.copysign(math.sqrt(-second), start)
    return top / (torch.exp(-2 * second * time) * (first - second / start**2) - first)


def printed_6(time: Tensor, start: float, first: float, second: float) -> Tensor:
    """Eq. 6, for C̃₂ = 0: w₀ / sqrt(2C₁w₀²t + 1)."""
    return torch.rsqrt(2 * first * start**2 * time + 1) * start


# Of each form at least one start; of the corrected ones also where the printed one is not real, or w(0) < 0.
CASES: tuple[tuple[str, Form, float, float, float], ...] = (
    ("Eq. 4 as printed", printed_4, 0.4, 0.5, 0.45),
    ("Eq. 4 corrected", corrected, 0.4, 0.5, 0.45),
    ("Eq. 4 corrected, w(0)² > C̃₂/C₁", corrected, 1.7, 0.5, 0.45),
    ("Eq. 5 as printed", printed_5, 0.4, 0.5, -0.45),
    ("Eq. 5 corrected", corrected, 0.4, 0.5, -0.45),
    ("Eq. 5 corrected, w(0) < 0", corrected, -1.3, 0.5, -0.2),
    ("Eq. 6 as printed", printed_6, 0.4, 0.5, 0.0),
)


def largest_errors(upto: float = 10.0) -> dict[str, float]:
    """By case, the largest |closed form − integrated (a, w)| over [0, upto], from a(0) = ±w(0).

    The integrated system is [Gadhikar 2024], Eq. 3: da/dt = −aw²C₁ + wC₂, dw/dt = −wa²C₁ + aC₂, C₂ = C̃₂·sign(a(0)w(0)).
    """
    times = torch.linspace(0, upto, 101, dtype=torch.float64)
    errors = {}
    for name, form, start, first, second in CASES:
        sign = 1.0 if second >= 0 else -1.0
        # C₂ > 0 in every case: a(0)w(0) has the sign of C̃₂.
        field = _balanced_flow(first, abs(second))
        begin = torch.tensor([[sign * start, start]], dtype=torch.float64)
        # Tighter than any error that is told apart: the misprints are at 0.1, the right forms at 1e-12.
        path = integrate(field, begin, times, rtol=1e-11, atol=1e-13)[:, 0, 1]
        errors[name] = float((form(times, start, first, second) - path).abs().max())
    return errors


def _balanced_flow(first: float, constant: float) -> Field:
    """da/dt = −aw²C₁ + wC₂, dw/dt = −wa²C₁ + aC₂. Source: [Gadhikar 2024], Eq. 3."""

    def field(time: Tensor, state: Tensor) -> Tensor:
        outer, inner = state[:, 0], state[:, 1]
        by_outer = -outer * inner.square() * first + inner * constant
        by_inner = -inner * outer.square() * first + outer * constant
        return torch.stack([by_outer, by_inner], 1)

    return field
