"""Penalties on the effective weight θ: l1, l2 and Frobenius decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.penalties.base import PENALTIES, check_strength
from sparsify_fx.penalties.towards import TowardsSparsity
from sparsify_fx.programs.program import WeightProgram


@PENALTIES.register("frobenius")
@dataclass(frozen=True)
class Frobenius:
    """(λ/2) Σ θ², over the effective weights: the gradient in θ is λθ, that of torch's `weight_decay=λ`.

    On a product it decays m ⊙ w, not m and w; set the optimizer's weight decay to zero then.

    Attributes:
        strength: λ >= 0.

    Source: [Gadhikar 2025], appendix D, Table 7 ("Frobenius decay" (m ⊙ w)², at the strength of weight decay).
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        check_strength("frobenius", self.strength)

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """(λ/2) Σ over all programs."""
        return (
            # The half makes the gradient λθ, so that λ means what `weight_decay` means.
            self.strength
            / 2
            * torch.stack([program().square().sum() for program in programs]).sum()
        )


@PENALTIES.register("l2")
@dataclass(frozen=True)
class L2(Frobenius):
    """(λ/2) Σ θ², the same as `frobenius` under its common name; the strength stays constant.

    Source: [Krogh 1991].
    """

    def __post_init__(self) -> None:
        check_strength("l2", self.strength)


@PENALTIES.register("l1")
@dataclass(frozen=True)
class L1(TowardsSparsity):
    """λ Σabs(θ), over the effective weights; the gradient in θ is λ·sign(θ), and 0 at 0.

    Attributes:
        strength, reach, floor: see `TowardsSparsity`.

    Source: [Tibshirani 1996]; [Jacobs 2025], section 4 (LASSO as a baseline).
    """

    strength: float = 1e-4

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """λ Σ over all programs."""
        level = self.strength if strength is None else strength
        return (
            level * torch.stack([program().abs().sum() for program in programs]).sum()
        )
