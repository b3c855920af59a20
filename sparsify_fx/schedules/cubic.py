"""cubic: gradual pruning within one run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.schedules.base import (
    MOST_UPDATES,
    SCHEDULES,
    Budget,
    OneRun,
    check_count,
)
from sparsify_fx.schedules.updates import MaskUpdate, Prune

_LEAST_PRUNINGS = 10


@SCHEDULES.register("cubic")
@dataclass(frozen=True)
class Cubic(OneRun):
    """Gradual pruning within one run: s_t = s · (1 − (1 − (t − t0)/(t1 − t0))³) at t = t0 + every, ..., t1.

    s_t is 0 at t0 itself.

    Attributes:
        start, end: t0 and t1 as shares of the run.
        every: epochs between prunings (fractions allowed).

    Source: [Zhu 2017], eq. 1.
    """

    start: float = 0.1
    end: float = 0.75
    every: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.end < 1 and self.every > 0):
            raise MethodError(
                f"cubic: expected 0 <= start < end < 1 and every > 0; got start={self.start!r}, end={self.end!r}, "
                f"every={self.every!r}"
            )

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> Cubic:
        """From the start on, with ten prunings at least, as far as there are steps: few epochs have few ends."""
        length = self.end * epochs
        wanted = max(_LEAST_PRUNINGS, math.ceil(length / self.every))
        count = max(1, min(wanted, math.floor(self.end * steps)))
        return replace(self, start=0.0, every=length / count)

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One every `every` epochs between t0 and t1, and one at t1."""
        if budget.sparsity == 0:
            return ()
        first, last = self.start * budget.epochs, self.end * budget.epochs
        exact = (last - first) / self.every
        check_count(
            f"cubic: every={self.every!r} makes prunings:",
            exact,
            MOST_UPDATES,
            "give a larger every",
        )
        # 1.1 / 0.1 is a little more than 11 in floats: an extra pruning would share the step of the last one.
        count = math.ceil(exact - 1e-9)
        times = [first + i * self.every for i in range(1, count)]
        kept = [
            kept_count(
                budget.total, self._sparsity(budget, (time - first) / (last - first))
            )
            for time in times
        ]
        return (
            *(Prune(0, *update) for update in zip(times, kept, strict=True)),
            # The last one takes the budget as it is, not the formula at 1: it must land exactly.
            Prune(0, last, budget.kept),
        )

    def _sparsity(self, budget: Budget, progress: float) -> float:
        return budget.sparsity * (1 - (1 - progress) ** 3)
