"""sigmoid-gate: every weight has a gate that grows steeper until it is open or closed (continuous sparsification)."""

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
from sparsify_fx.parameterizations.base import (
    PARAMETERIZATIONS,
    Moment,
    Plain,
    Tensors,
    check_scale,
)

# τ·s of a gate that stays open: σ is exactly 1 in float64 too, its derivative 0, with room for decay.
_OPEN = 100.0


@PARAMETERIZATIONS.register("sigmoid-gate")
@dataclass(frozen=True)
class SigmoidGate(Plain):
    """θ = d·σ(τ·s), where s = scale·logit, with trained d and logit, both of the weight's shape.

    The temperature τ (state, shape []) rises exponentially from 1 to `temperature`: τ = temperature^progress, where
    progress reaches 1 at the last mask update of a run, or at its end. Settling makes gates with s <= 0 zero and the
    others one.

    split: s = start, d = θ / σ(τ·s); value(split(θ)) = θ within 4 ulp.

    Attributes:
        start: s at the beginning; > 0 opens gates while τ rises, < 0 closes them.
        temperature: the largest τ, > 1.
        scale: under SGD s moves scale² times as fast as with 1, under Adam scale times.

    Raises MethodError when these are not such numbers.

    >>> gate = SigmoidGate(start=0.2)
    >>> parts = gate.split(torch.tensor([1.0, -2.0]))
    >>> gate.value({**parts, "temperature": torch.tensor(1.0)})
    tensor([ 1., -2.])

    Source: [Savarese 2020], section 3 (τ up to 200).
    """

    start: float = 0.2
    temperature: float = 200.0
    scale: float = 1.0
    factors: ClassVar[tuple[str, ...]] = ("dense", "logit")
    gates: ClassVar[tuple[str, ...]] = ("logit",)
    # Decay would pull gates to half open.
    without_decay: ClassVar[tuple[str, ...]] = ("shared",)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and 1 < self.temperature < float("inf")):
            raise MethodError(
                f"sigmoid-gate: expected a finite start and a finite temperature > 1, got {self}"
            )
        check_scale("sigmoid-gate", self.scale)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = d·σ(τ·s)."""
        return tensors["dense"] * self.open_gates(tensors)

    def open_gates(self, tensors: Mapping[str, Any]) -> Any:
        """σ(τ·s), how far each gate is open."""
        return torch.sigmoid(tensors["temperature"] * (self.scale * tensors["logit"]))

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """Gates as at the beginning, d = θ / σ(τ·s)."""
        # With the present τ: a weight that is rewritten in the middle of a run must come out as θ now.
        temperature = (self.state(theta) if others is None else others)[
            "temperature"
        ].to(theta.device, theta.dtype)
        logit = torch.full_like(theta, self.start / self.scale)
        gate = self.open_gates({"logit": logit, "temperature": temperature})
        return {
            "dense": (widened(theta) / widened(gate)).to(theta.dtype),
            "logit": logit,
        }

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """τ = 1, where every run begins."""
        return {"temperature": theta.new_ones(())}

    def error_bound(self, theta: Tensor) -> Tensor:
        """4 ulp of θ."""
        return 4 * ulp(theta)

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """d = 0 where s <= 0; every gate open for good at the largest temperature."""
        dense, logit = tensors["dense"], tensors["logit"]
        return {
            # The limit τ → ∞: σ(τ·s) is a step at s = 0.
            "dense": torch.where(logit > 0, dense, torch.zeros_like(dense)),
            # For the largest temperature: only then σ is exactly 1.
            "logit": torch.full_like(logit, _OPEN / (self.temperature * self.scale)),
        }

    def nearness(self, tensors: Tensors) -> Tensor:
        """s = scale·logit; once a gate is open, its weight is d."""
        return torch.where(
            tensors["dense"] == 0, -math.inf, self.scale * tensors["logit"]
        )

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """s = 1 there, so that θ = d once settled."""
        return {"logit": torch.where(where, 1 / self.scale, tensors["logit"])}

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """τ = temperature^progress."""
        # In place, so that nothing recompiles.
        state["temperature"].fill_(self.temperature**moment.progress)


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Sigmoid": "SigmoidGate"})
