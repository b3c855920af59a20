"""Rewinds: what goes back to an earlier state after each pruning."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sparsify_fx.errors import MethodError

Epoch = int | float | Literal["init", "warmup"]


@dataclass(frozen=True)
class Rewind:
    """What each new cycle starts from. An epoch of the first run, "init" (epoch 0) or "warmup" (the end of its
    warm-up) is the point to go back to; None keeps the current state.

    Attributes:
        weights: every parameter and buffer (batch norm included), but never the masks.
        signs: of the prunable weights only, `θ ← |θ| · sign(θ_k)`; a zero in θ_k takes that of θ. Not with weights.
        magnitudes: of the prunable weights only, `θ ← sign(θ) · |θ_k|`; where θ is zero it is θ_k. Not with weights.
        batchnorm: scale, shift and running statistics of batch norm only.
        optimizer: the optimizer's state (momentum, ...), without that of pruned weights.
        learning_rate: the learning-rate curve starts again from this epoch, and the run is that much shorter;
            None lets one curve run over all cycles.

    Raises MethodError for an impossible point, or weights beside signs or magnitudes.

    >>> sorted(Rewind(magnitudes="warmup", batchnorm="warmup").points())
    ['warmup']

    Source: [Gadhikar 2024], sections 1 and 3, Fig. 7 (magnitudes only); [Renda 2020].
    """

    weights: Epoch | None = None
    signs: Epoch | None = None
    magnitudes: Epoch | None = None
    batchnorm: Epoch | None = None
    optimizer: Epoch | None = None
    learning_rate: Epoch | None = "init"

    def __post_init__(self) -> None:
        for field in fields(self):
            point = getattr(self, field.name)
            # True == 1 would pass for epoch 1.
            named = point in (None, "init", "warmup")
            if not named and (isinstance(point, (str, bool)) or not point >= 0):
                raise MethodError(
                    f"rewind: {field.name}={point!r} must be an epoch >= 0, 'init', 'warmup' or None"
                )
        if self.weights is not None and (
            self.signs is not None or self.magnitudes is not None
        ):
            raise MethodError(
                "rewind: weights bring signs and magnitudes back already; give weights alone, or signs and magnitudes"
            )

    def points(self) -> set[Epoch]:
        """Every point that must be recorded on the way."""
        # Not `learning_rate`: a point of the curve is computed, nothing has to be recorded for it.
        recorded = (
            self.weights,
            self.signs,
            self.magnitudes,
            self.batchnorm,
            self.optimizer,
        )
        return {point for point in recorded if point is not None}
