"""Rewinds: what goes back to an earlier state after each pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsify_fx.errors import RecipeError

Epoch = int | float | Literal["init", "warmup"]


@dataclass(frozen=True)
class Rewind:
    """What each new cycle starts from. An epoch of the first run, "init" (epoch 0) or "warmup" (the end of its
    warm-up) is the point to go back to; None keeps the current state.

    Attributes:
        weights: every parameter and buffer (batch norm included), but never the masks.
        batchnorm: scale, shift and running statistics of batch norm only.
        optimizer: the optimizer's state (momentum, ...), without that of pruned weights.
        learning_rate: the learning-rate curve starts again from this epoch, and the run is that much shorter;
            None lets one curve run over all cycles.

    Source: paper 000, sections 1 and 3; Renda et al. 2020.
    """

    weights: Epoch | None = None
    batchnorm: Epoch | None = None
    optimizer: Epoch | None = None
    learning_rate: Epoch | None = "init"

    def __post_init__(self) -> None:
        for field in ("weights", "batchnorm", "optimizer", "learning_rate"):
            point = getattr(self, field)
            named = point in (None, "init", "warmup")
            if not named and (isinstance(point, (str, bool)) or not point >= 0):
                raise RecipeError(f"rewind: {field}={point!r} must be an epoch >= 0, 'init', 'warmup' or None")

    def points(self) -> set[Epoch]:
        """Every point that must be recorded on the way."""
        return {point for point in (self.weights, self.batchnorm, self.optimizer) if point is not None}
