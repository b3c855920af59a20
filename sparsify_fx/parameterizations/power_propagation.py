"""power-propagation: large weights move faster than small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.moved import old_names
from sparsify_fx.numerics import ulp, widened
from sparsify_fx.parameterizations.base import PARAMETERIZATIONS, Plain, Tensors


@PARAMETERIZATIONS.register("power-propagation", formerly="power")
@dataclass(frozen=True)
class PowerPropagation(Plain):
    """θ = sign(d)·abs(d)^α: gradients of small weights shrink with them, so that most stay near zero.

    split: d = sign(θ)·abs(θ)^(1/α); value(split(θ)) = θ within α + 2 ulp. ∂θ/∂d = α·abs(d)^(α−1) is zero at d = 0: an
    entry that is exactly zero (pruned, or regrown) stays zero.

    Attributes:
        alpha: α >= 1; 1 is the dense parameterization.

    Raises MethodError when α is not a finite number >= 1.

    >>> PowerPropagation(alpha=2.0).split(torch.tensor([0.25, -9.0]))
    {'dense': tensor([ 0.5000, -3.0000])}

    Source: [Schwarz 2021], eq. 1 (powerpropagation; α = 2 to 4).
    """

    alpha: float = 2.0
    factors: ClassVar[tuple[str, ...]] = ("dense",)

    def __post_init__(self) -> None:
        if not 1 <= self.alpha < float("inf"):
            raise MethodError(
                f"power-propagation: alpha={self.alpha!r} must be a finite number >= 1, for instance 2.0"
            )

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = sign(d)·abs(d)^α, whose derivative is finite at zero for every α >= 1."""
        # sign and abs apart: d^α of a negative d is NaN for most α.
        dense = tensors["dense"]
        return torch.sign(dense) * torch.abs(dense) ** self.alpha

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """d = sign(θ)·abs(θ)^(1/α)."""
        wide = widened(theta)
        return {"dense": (wide.sign() * wide.abs() ** (1 / self.alpha)).to(theta.dtype)}

    def error_bound(self, theta: Tensor) -> Tensor:
        """α + 2 ulp of θ: the rounding of d counts α times."""
        return (self.alpha + 2) * ulp(theta)


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Power": "PowerPropagation"})
