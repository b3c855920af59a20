"""hard-concrete: every weight has a random gate, whose probability of being open is trained (the method l0)."""

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

# log α of a gate that no noise closes: |noise| < 14.
_OPEN = 30.0


@PARAMETERIZATIONS.register("hard-concrete", formerly="l0")
@dataclass(frozen=True)
class HardConcrete(Plain):
    """θ = d·z with a gate z = clamp(y·(ζ − γ) + γ, 0, 1), where γ < 0 < 1 < ζ; log α = scale·logit is trained.

    In training y = σ((log u − log(1−u) + log α)/b) with u uniform on (0, 1), in evaluation y = σ(log α). The noise is a
    state of the weight's shape, drawn before every optimizer step from (seed, step, weight): a resumed training draws
    the same. P(z ≠ 0) = σ(log α − b·log(−γ/ζ)).

    split: log α = start, d = θ / z; value(split(θ)) = θ exactly where z = 1, as at the default start, else within
    4 ulp.

    Attributes:
        start: log α at the beginning; 2.5 opens a gate with probability 0.98.
        b: the concrete distribution's temperature (β in the source).
        gamma, zeta: the stretch.
        scale: under SGD log α moves scale² times as fast as with 1, under Adam scale times.

    Raises MethodError for a stretch that cannot reach 0 and 1, a start whose gate is closed, or a scale <= 0.

    >>> gate = HardConcrete()
    >>> parts = gate.split(torch.tensor([1.0, -2.0]))
    >>> gate.value({**parts, **gate.state(parts["dense"])})
    tensor([ 1., -2.])

    Source: [Louizos 2018], eq. 10 to 13 (b = 2/3, γ = −0.1, ζ = 1.1).
    """

    start: float = 2.5
    b: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    scale: float = 1.0
    factors: ClassVar[tuple[str, ...]] = ("dense", "logit")
    gates: ClassVar[tuple[str, ...]] = ("logit",)
    # Decay would pull gates to half open.
    without_decay: ClassVar[tuple[str, ...]] = ("shared",)
    transient: ClassVar[tuple[str, ...]] = ("noise", "noisy")

    def __post_init__(self) -> None:
        if not (
            self.gamma < 0
            and self.zeta > 1
            and 0 < self.b <= 1
            and math.isfinite(self.start)
        ):
            raise MethodError(
                f"hard-concrete: expected gamma < 0, zeta > 1, b in (0, 1] and a finite start, got {self}"
            )
        check_scale("hard-concrete", self.scale)
        if self.start <= math.log(-self.gamma / self.zeta):
            raise MethodError(
                f"hard-concrete: start={self.start!r} closes every gate; take more, for instance 2.5"
            )

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = d·z; the noise counts as far as `noisy` is 1."""
        # One formula for both modes: with noisy = 1 the logits are (log α + noise)/b, with 0 log α itself. Of a branch
        # on the mode only the side of the moment would be recorded.
        log_alpha, noisy = self.scale * tensors["logit"], tensors["noisy"]
        drawn = (log_alpha + tensors["noise"]) * noisy * (1 / self.b) + (
            log_alpha - log_alpha * noisy
        )
        return tensors["dense"] * self._stretched(drawn)

    def _stretched(self, logits: Any) -> Any:
        return torch.clamp(
            torch.sigmoid(logits) * (self.zeta - self.gamma) + self.gamma, 0, 1
        )

    def open_gates(self, tensors: Mapping[str, Any]) -> Any:
        """P(z ≠ 0) of each gate."""
        return torch.sigmoid(
            self.scale * tensors["logit"] - self.b * math.log(-self.gamma / self.zeta)
        )

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """Gates as at the beginning, d = θ / z."""
        logit = torch.full_like(theta, self.start / self.scale)
        # Divided by the gate as `value` will round it, so that d·z meets θ.
        dense = (widened(theta) / widened(self._stretched(self.scale * logit))).to(
            theta.dtype
        )
        return {"dense": dense, "logit": logit}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """No noise yet, training mode."""
        return {"noise": torch.zeros_like(theta), "noisy": theta.new_ones(())}

    def error_bound(self, theta: Tensor) -> Tensor:
        """4 ulp of θ; zero when the gates start wide open."""
        wide_open = self._stretched(theta.new_tensor(self.start)) == 1
        return torch.where(wide_open, torch.zeros_like(theta), 4 * ulp(theta))

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """d = d·z of evaluation; every gate open for good, whatever the noise."""
        logit = tensors["logit"]
        dense = tensors["dense"] * self._stretched(self.scale * logit)
        return {"dense": dense, "logit": torch.full_like(logit, _OPEN / self.scale)}

    def nearness(self, tensors: Tensors) -> Tensor:
        """log α; once a gate is open, its weight is d."""
        return torch.where(
            tensors["dense"] == 0, -math.inf, self.scale * tensors["logit"]
        )

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """A gate that is wide open there, so that θ = d once settled."""
        return {"logit": torch.where(where, _OPEN / self.scale, tensors["logit"])}

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """New noise log u − log(1−u), drawn on the weight's device."""
        # In place, so that nothing recompiles.
        noise = state["noise"]
        generator = torch.Generator(noise.device).manual_seed(moment.seed)
        # In float32 whatever the weight: uniform numbers in bfloat16 have few values, and 0 or 1 among them.
        uniform = torch.rand(
            noise.shape, generator=generator, device=noise.device, dtype=torch.float32
        )
        noise.copy_(torch.logit(uniform, eps=1e-6))


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Concrete": "HardConcrete"})
