"""factors: weight decay on the factors of a weight (spred)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_fx.penalties.base import PENALTIES, kept_entries
from sparsify_fx.penalties.towards import TowardsSparsity
from sparsify_fx.programs.program import WeightProgram


def factor_squares(programs: Iterable[WeightProgram]) -> Tensor:
    """Σ of the squares of all factors, ‖m‖² + ‖w‖² for a product, without pruned entries (0-dimensional)."""
    # Each factor of each program by itself: a product has two, m and w.
    squares = []
    for program in programs:
        for factor in program.factor_tensors().values():
            squares.append(kept_entries(program, factor).square().sum())
    return torch.stack(squares).sum()


@PENALTIES.register("factors")
@dataclass(frozen=True)
class FactorDecay(TowardsSparsity):
    """α(‖m‖² + ‖w‖²). For a product θ = m ⊙ w it has its minimum over m and w at 2α‖θ‖₁: LASSO of strength 2α.

    The gradient in m is 2αm, that of torch's `weight_decay=2α`.

    Attributes:
        strength: α.
        reach, floor: see `TowardsSparsity`.

    Source: [Ziyin 2023]; [Jacobs 2025], eq. 2.
    """

    strength: float = 1e-4
    # It is the decay of the factors.
    without_decay: ClassVar[tuple[str, ...]] = ("factors",)

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """α Σ over all factors."""
        return (self.strength if strength is None else strength) * factor_squares(
            programs
        )
