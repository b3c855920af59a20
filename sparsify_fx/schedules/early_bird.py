"""early-bird: dense until the mask that a pruning would choose has settled, then sparse."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_fx.errors import MethodError
from sparsify_fx.schedules.base import (
    MOST_UPDATES,
    SCHEDULES,
    Budget,
    OneRun,
    check_count,
)
from sparsify_fx.schedules.single import AtInit
from sparsify_fx.schedules.updates import DrawTicket, MaskUpdate, Settled

DISTANCES = ("kept", "all")


@SCHEDULES.register("early-bird")
@dataclass(frozen=True)
class EarlyBird(OneRun):
    """Every `every` epochs it is looked at which mask a pruning would choose now; the first that has settled is drawn.

    A mask has settled when the last `distances` distances, each between two masks that follow each other, are at most
    `below`. Until then all weights train; from then on those of the ticket, from their values of that moment.

        distance(A, B) = count(A △ B) / (count A + count B)    of="kept": the share of the ticket that has changed
        distance(A, B) = count(A △ B) / n                      of="all": the paper's, over all n weights

    The two are equal where half of the weights stay. The paper's is at most 2 · density, so that at sparsity 0.95 and
    more any mask is within 0.1 of any other.

    Attributes:
        below: ε.
        distances: how many of them, the length of the paper's queue.
        every: epochs between two looks (fractions allowed).
        until: share of the run at which the mask is drawn at the latest, settled or not.
        of: "kept" or "all".

    >>> [update.epoch for update in EarlyBird().updates(Budget(1000, 0.5, epochs=8))]
    [1.0, 2.0, 3.0, 4.0]

    Source: [You 2020], section 4.1 and algorithm 1.
    """

    below: float = 0.1
    distances: int = 5
    every: float = 1.0
    until: float = 0.5
    of: str = "kept"

    def __post_init__(self) -> None:
        whole = isinstance(self.distances, int) and not isinstance(self.distances, bool)
        if not (0 <= self.below <= 1 and whole and self.distances >= 1):
            raise MethodError(
                f"early-bird: expected below in [0, 1] and a whole number of distances >= 1; got below={self.below!r}, "
                f"distances={self.distances!r}"
            )
        if not (self.every > 0 and 0 < self.until < 1):
            raise MethodError(
                f"early-bird: expected every > 0 and until in (0, 1); got every={self.every!r}, until={self.until!r}"
            )
        if self.of not in DISTANCES:
            raise MethodError(
                f"early-bird: of={self.of!r} must be 'kept', the share of the ticket, or 'all', that of all weights"
            )

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """A look every `every` epochs, and a last one at `until`."""
        if budget.sparsity == 0:
            return ()
        end = self.until * budget.epochs
        looks = end / self.every
        told = f"early-bird: every={self.every!r} makes looks:"
        check_count(told, looks, MOST_UPDATES, "give a larger every")
        # Not at `until` itself, which has a look of its own.
        times = [i * self.every for i in range(1, math.ceil(looks - 1e-9))]
        rule = Settled(self.below, self.distances, self.of)
        early = [DrawTicket(0, time, budget.kept, rule) for time in times]
        return (*early, DrawTicket(0, end, budget.kept, rule, last=True))

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> AtInit:
        """At once: the masks of a trained net have settled."""
        return AtInit()
