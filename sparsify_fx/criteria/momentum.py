"""momentum: gradients of many batches, smoothed, at pruned weights too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.criteria.objective import (
    Weights,
    gradient_of,
    objective,
    scoring_batches,
)
from sparsify_fx.criteria.scoring_mode import check_mode, in_mode
from sparsify_fx.distributed.ranks import sum_over_ranks
from sparsify_fx.errors import MethodError


@CRITERIA.register("momentum")
@dataclass(frozen=True)
class Momentum:
    """abs(m) with m ← α m + (1 − α) ∂L/∂θ over the batches in their order, at the weights of now.

    The paper smooths over the steps of the training, where the weights move between the gradients; optimizers here keep
    no momentum of pruned weights. With α = 0.9 it is the last ten batches that count, in which weights hardly move. In
    a process group the mean over the ranks.

    Attributes:
        smoothing: α in [0, 1); 0 takes the last batch alone.
        mode: as for `Gradient`.

    Raises MethodError for another α or mode.

    Source: [Dettmers 2019], section 3 and algorithm 1.
    """

    smoothing: float = 0.9
    mode: str = "train"
    needs: ClassVar[tuple[str, ...]] = ("model", "batches", "loss_fn")
    # A single batch, that of the step, would be no momentum.
    current_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise MethodError(
                f"momentum: smoothing={self.smoothing!r} must be in [0, 1), for instance 0.9"
            )
        check_mode("momentum", self.mode)

    def scores(self, context: PruningContext) -> Scores:
        """abs(m)."""
        total, ranks = sum_over_ranks(
            "the gradients of momentum", lambda: (self._smoothed(context), 1)
        )
        return {name: (value / ranks).abs() for name, value in total.items()}

    def _smoothed(self, context: PruningContext) -> Weights:
        assert context.model is not None
        weights = dict(context.weights)
        found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        with in_mode(context.model, self.mode):
            for inputs, targets in scoring_batches(context):
                gradient = gradient_of(objective(context, inputs, targets), weights)
                for name, value in gradient.items():
                    found[name].lerp_(value, 1 - self.smoothing)
        return found
