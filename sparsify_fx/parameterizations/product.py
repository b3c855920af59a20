"""product: the weight is m ⊙ w with m² − w² = β (Sign-In)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.moved import old_names
from sparsify_fx.numerics import ulp, widened
from sparsify_fx.parameterizations.base import PARAMETERIZATIONS, Plain, Tensors


@PARAMETERIZATIONS.register("product")
@dataclass(frozen=True)
class Product(Plain):
    """θ = m ⊙ w with m² − w² = β, which lets gradients flip signs.

    split: m = sqrt(β/2 + sqrt(θ² + β²/4)), w = θ / m; m ⊙ w = θ within 2 ulp. The scalar β > 0 is the inner scaling:
    gradient flow gives dθ = −(m² + w²) ⊙ ∇L dt = −sqrt(4θ² + β²) ⊙ ∇L dt, so θ passes through zero at speed β. (Eq. 1
    of the paper writes the same flow as sqrt(θ² + β), in another normalization of β; the split is that of its
    Appendix B.)

    Raises MethodError when β is not a positive finite number.

    >>> factors = Product(beta=1.0).split(torch.tensor([0.0, 0.75]))
    >>> factors["m"] ** 2 - factors["w"] ** 2
    tensor([1., 1.])

    Source: Sign-In ([Gadhikar 2025]), Algorithm 1 and Appendix B.
    """

    beta: float = 1.0
    factors: ClassVar[tuple[str, ...]] = ("m", "w")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise MethodError(
                f"product: beta={self.beta!r} must be a positive finite number, for instance 1.0"
            )

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = m ⊙ w."""
        return tensors["m"] * tensors["w"]

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """The factors of θ with inner scaling β: m > 0 and m² − w² = β."""
        wide = widened(theta)
        half = self.beta / 2
        # hypot(θ, β/2) does not overflow where θ² would.
        m = torch.sqrt(half + torch.hypot(wide, torch.full_like(wide, half))).to(
            theta.dtype
        )
        # w is divided by the rounded m, so that m ⊙ w meets θ to an ulp in θ's own dtype.
        return {"m": m, "w": (wide / m.to(wide.dtype)).to(theta.dtype)}

    def error_bound(self, theta: Tensor) -> Tensor:
        """2 ulp of θ; sqrt(β) of the smallest number where w is that small."""
        return torch.maximum(
            2 * ulp(theta), math.sqrt(self.beta) * ulp(torch.zeros_like(theta))
        )

    def unbalanced(self, tensors: Tensors) -> Tensor:
        """Where m² − w² misses β by more than the rounding of a fresh split, or m <= 0."""
        return off_balance(tensors["m"], tensors["w"], self.beta) | (tensors["m"] <= 0)


def off_balance(m: Tensor, w: Tensor, beta: float) -> Tensor:
    """Where m² − w² misses β by more than the rounding of m and w."""
    # eps of the dtype before widening: m and w carry its rounding, half an ulp each, twice in their squares.
    eps, m, w = torch.finfo(m.dtype).eps, widened(m), widened(w)
    return (m * m - w * w - beta).abs() > 4 * eps * (m * m + w * w)


if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__,
        {"Balanced": "sparsify_fx.parameterizations.balanced_product.BalancedProduct"},
    )
