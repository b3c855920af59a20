"""Penalties: terms that `scheduler.penalty()` adds to the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import RecipeError
from sparsify_fx.program import WeightProgram
from sparsify_fx.registry import Registry


@runtime_checkable
class Penalty(Protocol):
    """A differentiable scalar of the weight programs."""

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """The term to add to the loss (0-dimensional)."""


PENALTIES: Registry[type[Any]] = Registry("penalty")


@PENALTIES.register("none")
@dataclass(frozen=True)
class NoPenalty:
    """Nothing is added."""

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """0, on the device of the weights."""
        first = next(iter(programs), None)
        return torch.zeros(()) if first is None else torch.zeros((), device=next(first.parameters()).device)


@PENALTIES.register("frobenius")
@dataclass(frozen=True)
class Frobenius:
    """(λ/2) Σ θ², over the effective weights: the gradient in θ is λθ, that of torch's `weight_decay=λ`.

    On a product it decays m ⊙ w, not m and w; set the optimizer's weight decay to zero then.

    Attributes:
        strength: λ >= 0.

    Source: paper 004, appendix D, Table 7 ("Frobenius decay" (m ⊙ w)², at the strength of weight decay).
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise RecipeError(f"frobenius: strength={self.strength!r} must be >= 0, for instance 1e-4")

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """(λ/2) Σ over all programs."""
        return self.strength / 2 * torch.stack([program().square().sum() for program in programs]).sum()
