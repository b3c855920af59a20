"""What parameterizations share whose weights d each have a trained probability p of being there."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_fx.parameterizations.base import Plain, Tensors


class Probabilities(Plain):
    """Factors d (`dense`) and p = scale·t (`probability` is t); a gate is open where p >= 1/2.

    Attributes:
        scale: a field of those that derive from this.
    """

    # Not a dataclass, so that they alone say in which order their fields are.
    scale: float
    factors: ClassVar[tuple[str, ...]] = ("dense", "probability")
    gates: ClassVar[tuple[str, ...]] = ("probability",)
    without_decay: ClassVar[tuple[str, ...]] = ("shared",)

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """d = 0 where a gate is closed; every p 1."""
        dense, p = tensors["dense"], self.scale * tensors["probability"]
        ones = torch.full_like(dense, 1 / self.scale)
        return {"dense": torch.where(p >= 0.5, dense, 0.0), "probability": ones}

    def nearness(self, tensors: Tensors) -> Tensor:
        """The probability; −inf where there is no weight to bring back."""
        p = self.scale * tensors["probability"]
        return torch.where(tensors["dense"] == 0, -math.inf, p)

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """p = 1 there."""
        top = 1 / self.scale
        return {"probability": torch.where(where, top, tensors["probability"])}
