"""probability-gate: every weight has a probability of being there, and together they have a budget (ProbMask)."""

from __future__ import annotations

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

# log p of a probability of 0; the paper's 1e-20 vanishes in float32 beside 1.
_SMALL = 1e-6
# The probabilities may add up to so many times the weights that stay; the exact pruning takes the rest.
_SLACK = 1.25
# A sum that is this near to the budget is not moved: a training that is loaded would else have other bits.
_NEAR = 1 + 1e-5


@PARAMETERIZATIONS.register("probability-gate")
@dataclass(frozen=True)
class ProbabilityGate(Probabilities):
    """θ = d·σ(τ (log p − log(1 − p) + noise)) in training, d·[p >= 1/2] in evaluation; d and p = scale·t are trained.

    The noise is logistic, drawn before every step from (seed, step, weight). τ = 1 / (1 − 0.97 x) for the progress x
    to the final pruning. After every step the probabilities of all weights are projected onto 0 <= p <= 1, Σ p <= K, by
    one number v that is taken off each, max(0, the root of Σ clip(p − v, 0, 1) = K), where K/n falls from 1 at progress
    `start` to 1.25 times the density at `end` as (1 − x)³.

    split: p = 0.99, d = θ: exact in evaluation.

    Attributes:
        density: the share of weights that stay, in (0, 1]; `apply` takes it from the sparsity.
        start, end: 0 <= start < end <= 1, shares of the way to the final pruning.
        scale: under SGD p moves scale² times as fast as with 1, under Adam scale times.

    Raises MethodError for other numbers.

    Source: [Xiao 2021], eq. 3 to 5 and algorithm 1.
    """

    density: float = 1.0
    start: float = 0.16
    end: float = 0.6
    scale: float = 1.0
    transient: ClassVar[tuple[str, ...]] = ("noise", "noisy")

    def __post_init__(self) -> None:
        if not (0 < self.density <= 1 and 0 <= self.start < self.end <= 1):
            raise MethodError(
                f"probability-gate: expected density in (0, 1] and 0 <= start < end <= 1, got {self}"
            )
        check_scale("probability-gate", self.scale)

    def with_density(self, density: float) -> ProbabilityGate:
        """The same with this share of weights that stay."""
        return replace(self, density=density)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ; `soft` is 0 once the masks are final."""
        p = torch.clamp(self.scale * tensors["probability"], 0, 1)
        logit = torch.log(p + _SMALL) - torch.log(1 - p + _SMALL)
        drawn = torch.sigmoid((logit + tensors["noise"]) * tensors["temperature"])
        open_ = (p.detach() >= 0.5).to(drawn.dtype)
        # One formula for both modes, as for `hard-concrete`: with soft · noisy = 0 the gate is exactly 0 or 1.
        soft, noisy = tensors["soft"], tensors["noisy"]
        gate = drawn * soft * noisy + (open_ - open_ * soft * noisy)
        return tensors["dense"] * gate

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """d = θ, p = 0.99."""
        start = torch.full_like(theta, 0.99 / self.scale)
        return {"dense": theta.clone(), "probability": start}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """No noise and hard gates until a Scheduler says when it is, τ = 1, training mode."""
        one = theta.new_ones(())
        return {
            "noise": torch.zeros_like(theta),
            "temperature": one.clone(),
            "soft": theta.new_zeros(()),
            "noisy": one,
        }

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """New noise and τ; hard gates once the masks are final."""
        noise = state["noise"]
        generator = torch.Generator(noise.device).manual_seed(moment.seed)
        uniform = torch.rand(
            noise.shape, generator=generator, device=noise.device, dtype=torch.float32
        )
        noise.copy_(torch.logit(uniform, eps=1e-6))
        state["temperature"].fill_(1 / (1 - 0.97 * moment.progress))
        state["soft"].fill_(float(moment.progress < 1))

    def projected(
        self, parts: Sequence[Tensors], progress: float
    ) -> list[dict[str, Tensor]]:
        """The probabilities of all weights within their budget; empty where they are."""
        if progress >= 1:
            return []
        values = [self.scale * part["probability"].double() for part in parts]
        left = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        last = min(1.0, _SLACK * self.density)
        share = last + (1 - last) * (1 - left) ** 3
        budget = share * sum(value.numel() for value in values)
        inside = all(value.min() >= 0 and value.max() <= 1 for value in values)
        if inside and float(sum(v.sum() for v in values)) <= budget * _NEAR:
            return []
        off = _taken_off(values, budget)
        return [
            {"probability": ((value - off).clamp(0, 1) / self.scale).to(torch.float32)}
            for value in values
        ]


def _taken_off(values: Sequence[Tensor], budget: float) -> float:
    """v >= 0 with Σ clip(p − v, 0, 1) = budget, or 0 where it is less."""

    def total(off: float) -> float:
        return float(sum((value - off).clamp(0, 1).sum() for value in values))

    low, high = 0.0, float(max(value.max() for value in values))
    if total(0.0) <= budget:
        return 0.0
    # 60 halvings exhaust the bits of a float.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) > budget else (low, middle)
    return high
