"""Parameterizations: how a weight θ is made of trainable factors, and how θ is split into them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import RecipeError
from sparsify_fx.registry import Registry


@runtime_checkable
class Parameterization(Protocol):
    """θ = value(factors), and split(θ) gives factors back: value(split(θ)) = θ within 2 ulp."""

    factors: ClassVar[tuple[str, ...]]

    def value(self, factors: Mapping[str, Any]) -> Any:
        """θ from its factors; called with tensors, and with `torch.fx` proxies to record the program."""

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """Factors whose value is θ, in θ's dtype and on its device."""


PARAMETERIZATIONS: Registry[type[Any]] = Registry("parameterization")


@PARAMETERIZATIONS.register("dense")
@dataclass(frozen=True)
class Dense:
    """θ itself is the trainable tensor."""

    factors: ClassVar[tuple[str, ...]] = ("dense",)

    def value(self, factors: Mapping[str, Any]) -> Any:
        """θ = dense."""
        return factors["dense"]

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """dense = θ."""
        return {"dense": theta.clone()}


@PARAMETERIZATIONS.register("product")
@dataclass(frozen=True)
class Product:
    """θ = m ⊙ w with m² − w² = β, which lets gradients flip signs.

    split: m = sqrt(β/2 + sqrt(θ² + β²/4)), w = θ / m. The scalar β > 0 is the inner scaling: gradient flow gives
    dθ = −(m² + w²) ⊙ ∇L dt = −sqrt(4θ² + β²) ⊙ ∇L dt, so θ passes through zero at speed β. (Eq. 1 of the paper
    writes the same flow as sqrt(θ² + β), in another normalisation of β; the split is that of its Appendix B.)

    Raises RecipeError when β is not a positive finite number.

    >>> factors = Product(beta=1.0).split(torch.tensor([0.0, 0.75]))
    >>> factors["m"] ** 2 - factors["w"] ** 2
    tensor([1., 1.])

    Source: Sign-In (paper 004), Algorithm 1 and Appendix B.
    """

    beta: float = 1.0
    factors: ClassVar[tuple[str, ...]] = ("m", "w")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise RecipeError(f"product: beta={self.beta!r} must be a positive finite number, for instance 1.0")

    def value(self, factors: Mapping[str, Any]) -> Any:
        """θ = m ⊙ w."""
        return factors["m"] * factors["w"]

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """The balanced factors of θ: m > 0 and m² − w² = β."""
        wide = widened(theta)
        half = self.beta / 2
        m = torch.sqrt(half + torch.hypot(wide, torch.full_like(wide, half))).to(theta.dtype)
        # w is divided by the rounded m, so that m ⊙ w meets θ to an ulp in θ's own dtype.
        return {"m": m, "w": (wide / m.to(wide.dtype)).to(theta.dtype)}


def widened(tensor: Tensor) -> Tensor:
    """`tensor` in float64, or in float32 on devices that have no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
