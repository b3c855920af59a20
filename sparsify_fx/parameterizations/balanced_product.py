"""balanced-product: the weight is m ⊙ w with abs(m) = abs(w) (spred)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.numerics import ulp, widened
from sparsify_fx.parameterizations.base import PARAMETERIZATIONS, Plain, Tensors
from sparsify_fx.parameterizations.product import off_balance


@PARAMETERIZATIONS.register("balanced-product", formerly="balanced")
@dataclass(frozen=True)
class BalancedProduct(Plain):
    """θ = m ⊙ w with abs(m) = abs(w), the limit β = 0 of the product.

    split: m = sqrt(abs(θ)), w = θ/m (0 where m is); m ⊙ w = θ within 2 ulp. The flow dθ = −2·abs(θ) ∇L dt stops at
    zero: in the flow no sign ever flips, and an entry that is exactly zero (pruned, or regrown) stays zero. Take the
    product where that matters.

    >>> BalancedProduct().split(torch.tensor([0.0, -4.0]))
    {'m': tensor([0., 2.]), 'w': tensor([ 0., -2.])}

    Source: [Ziyin 2023] (spred); [Jacobs 2025], section 3, eq. 7.
    """

    factors: ClassVar[tuple[str, ...]] = ("m", "w")

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = m ⊙ w."""
        return tensors["m"] * tensors["w"]

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """The balanced factors of θ, both zero where θ is."""
        wide = widened(theta)
        m = wide.abs().sqrt().to(theta.dtype)
        # 0 / 0 would be NaN.
        w = torch.where(m == 0, torch.zeros_like(wide), wide / m.to(wide.dtype))
        return {"m": m, "w": w.to(theta.dtype)}

    def error_bound(self, theta: Tensor) -> Tensor:
        """2 ulp of θ."""
        return 2 * ulp(theta)

    def unbalanced(self, tensors: Tensors) -> Tensor:
        """Where abs(m) is not abs(w), but for the rounding of a fresh split, or m < 0."""
        return off_balance(tensors["m"], tensors["w"], 0.0) | (tensors["m"] < 0)
