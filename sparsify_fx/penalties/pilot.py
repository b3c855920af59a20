"""pilot: weight decay on the factors, whose strength the training accuracy and the L1 norm control."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.penalties.base import PENALTIES, Observation, check_strength
from sparsify_fx.penalties.factors import factor_squares
from sparsify_fx.programs.program import WeightProgram


@PENALTIES.register("pilot")
@dataclass(frozen=True)
class Pilot:
    """α_k(‖m‖² + ‖w‖²) with, after epoch k of T (of every run),

        α_k = α_{k−1}·δ   if the training accuracy rose, ‖m ⊙ w‖₁ > K and k <= T/2,
        α_k = α_{k−1}/δ   otherwise; the accuracy before the first epoch counts as 0.

    So the strength grows only while the weights are not sparse yet and learning goes on, and it decays to zero in the
    second half. Give the accuracy of every epoch by `scheduler.observe(accuracy=...)`.

    Attributes:
        strength: α_init.
        delta: δ >= 1.
        threshold: K; None takes the L1 norm that the largest weights have at the start, as many as the requested
            sparsity keeps (our default: the paper chooses K anew for every model and sparsity).

    Raises MethodError for other numbers, SchedulerError without an accuracy.

    Source: [Jacobs 2025], Algorithm 1, Tables 2 and 3 (δ = 1.01; K = 8000 on CIFAR, 20000 to 60000 on ImageNet).
    """

    strength: float = 1e-4
    delta: float = 1.01
    threshold: float | None = None
    every_epoch: ClassVar[bool] = True
    # It is the decay of the factors.
    without_decay: ClassVar[tuple[str, ...]] = ("factors",)

    def __post_init__(self) -> None:
        check_strength("pilot", self.strength)
        if not 1 <= self.delta < math.inf:
            raise MethodError(
                f"pilot: delta={self.delta!r} must be a finite number >= 1, for instance 1.01"
            )
        if self.threshold is not None and not self.threshold >= 0:
            raise MethodError(
                f"pilot: threshold={self.threshold!r} must be an L1 norm >= 0, or None"
            )

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """α Σ over all factors."""
        return (self.strength if strength is None else strength) * factor_squares(
            programs
        )

    def adapt(
        self, level: float, before: Observation | None, now: Observation
    ) -> tuple[float, float]:
        """One update of Algorithm 1."""
        if now.accuracy is None:
            raise SchedulerError(
                "pilot needs the training accuracy of every epoch: call scheduler.observe(accuracy=...) before the "
                f"scheduler.step() that ends the epoch (here epoch {now.epoch:g} of a run)"
            )
        # As in the paper: against 0 the first epoch of a run always counts as progress.
        last = 0.0 if before is None or before.accuracy is None else before.accuracy
        # Once the weights hold no more than the ones that are to stay held at the start, they are sparse enough.
        dense = now.l1 > (now.kept_l1 if self.threshold is None else self.threshold)
        grows = now.accuracy > last and dense and now.epoch <= now.epochs / 2
        level = level * self.delta if grows else level / self.delta
        return level, level
