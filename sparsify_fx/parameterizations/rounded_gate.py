"""rounded-gate: fixed weights whose probabilities are trained and rounded; afterwards the weights train (Gem-Miner)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations.base import (
    PARAMETERIZATIONS,
    Moment,
    Tensors,
    check_scale,
)
from sparsify_fx.parameterizations.probabilities import Probabilities
from sparsify_fx.parameterizations.top_scores import drawn_scores


@PARAMETERIZATIONS.register("rounded-gate")
@dataclass(frozen=True)
class RoundedGate(Probabilities):
    """θ = d·[p >= 1/2] with p = scale·t; until the masks are final p is trained and d is not, then d is trained.

    The gradient goes straight through: ∂θ/∂p = d. After every step p is clipped to [0, 1], and of all weights together
    no more than density^(i/levels) have p > 0 after the i-th of `levels` equal parts of the way to the final
    pruning: the lowest others become 0.

    split: d = θ, p uniform in [1/2, 1], drawn from the shape and the first entry of θ; exact.

    Attributes:
        density: the share of weights that stay, in (0, 1]; `apply` takes it from the sparsity.
        levels: >= 1.
        scale: under SGD p moves scale² times as fast as with 1, under Adam scale times.

    Raises MethodError for other numbers.

    Source: [Sreenivasan 2022], section 3 and algorithm 1.
    """

    density: float = 1.0
    levels: int = 10
    scale: float = 1.0
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.density <= 1 and self.levels >= 1):
            raise MethodError(
                f"rounded-gate: expected density in (0, 1] and levels >= 1, got {self}"
            )
        check_scale("rounded-gate", self.scale)

    def with_density(self, density: float) -> RoundedGate:
        """The same with this share of weights that stay."""
        return replace(self, density=density)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ; the state `trained` is 1 once the weights train."""
        dense, p = tensors["dense"], self.scale * tensors["probability"]
        # p − p is exactly 0 and carries the gradient of the gate.
        gate = (p >= 0.5).to(dense.dtype) + (p - p.detach())
        fixed = dense.detach()
        return (
            dense * tensors["trained"] + (fixed - fixed * tensors["trained"])
        ) * gate

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """d = θ; open gates stay as they are."""
        known = None if others is None else others.get("probability")
        if known is None or known.shape != theta.shape:
            known = (0.75 + drawn_scores(theta) / 4) / self.scale
        # Where θ is other than zero the gate has to be open; where it is zero it does not matter.
        least = torch.full_like(known, 0.5 / self.scale)
        open_ = torch.where(theta != 0, torch.maximum(known, least * 1.0001), known)
        return {"dense": theta.clone(), "probability": open_}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """trained = 0: the weights are as they were drawn."""
        return {"trained": theta.new_zeros(())}

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """The weights train once the masks are final."""
        state["trained"].fill_(float(moment.progress >= 1))

    def projected(
        self, parts: Sequence[Tensors], progress: float
    ) -> list[dict[str, Tensor]]:
        """Probabilities in [0, 1], at most as many above 0 as the level allows; empty where they are."""
        # Afterwards every gate has to stay open, whatever gradients its probability still gets.
        if progress >= 1:
            ones = [torch.full_like(p["probability"], 1 / self.scale) for p in parts]
            same = [
                torch.equal(a, p["probability"])
                for a, p in zip(ones, parts, strict=True)
            ]
            return [] if all(same) else [{"probability": one} for one in ones]
        top = 1 / self.scale
        values = [part["probability"].clamp(0, top) for part in parts]
        flat = torch.cat([value.flatten() for value in values])
        share = self.density ** (math.floor(progress * self.levels) / self.levels)
        kept = max(1, math.ceil(share * flat.numel()))
        least = flat.kthvalue(flat.numel() - kept + 1).values
        return [{"probability": torch.where(v >= least, v, 0.0)} for v in values]
