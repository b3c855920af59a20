"""regrow: sparse from the start, with weights that move."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_fx.criteria import CRITERIA
from sparsify_fx.errors import MethodError
from sparsify_fx.registry import added_option
from sparsify_fx.schedules.base import (
    MOST_UPDATES,
    SCHEDULES,
    Budget,
    OneRun,
    check_count,
)
from sparsify_fx.schedules.updates import MaskUpdate, Regrow


@SCHEDULES.register("regrow")
@dataclass(frozen=True)
class RegrowEvery(OneRun):
    """Sparse from initialization; every `every` epochs a fraction of each layer's weights moves elsewhere.

    The fraction falls as f_t = (α/2)(1 + cos(π t / t_end)). Those of least `|θ|` are dropped. Grown weights start at
    zero with cleared momentum; one that is dropped and grown at once keeps its value. Every layer keeps its count,
    unless weights are redistributed.

    Attributes:
        growth: criterion of the grown weights: "gradient" (RigL), "random" (SET) or "momentum" (SNFS).
        fraction: α.
        every: epochs between updates (fractions allowed).
        until: t_end as a share of the run.
        anneal: False keeps the fraction constant (SET).
        redistribute: what is dropped in all layers grows in each in proportion to the mean of the growth criterion over
            its living weights (SNFS).

    Source: [Evci 2020], section 3; [Mocanu 2018]; [Dettmers 2019], section 3.
    """

    growth: str = "gradient"
    fraction: float = 0.3
    every: float = 1.0
    until: float = 0.75
    anneal: bool = True
    redistribute: bool = added_option(False)

    def __post_init__(self) -> None:
        if not (0 < self.fraction < 1 and self.every > 0 and 0 < self.until <= 1):
            raise MethodError(
                f"regrow: expected fraction in (0, 1), every > 0 and until in (0, 1]; got fraction={self.fraction!r}, "
                f"every={self.every!r}, until={self.until!r}"
            )
        # An unknown name is refused here, not at the first update.
        CRITERIA[self.growth]

    @property
    def needs(self) -> tuple[str, ...]:
        """What the growth criterion needs."""
        return tuple(need for need in CRITERIA[self.growth].needs if need != "model")

    def initial(self, budget: Budget) -> int | None:
        """The final budget, from the start: updates move weights and keep their number."""
        return budget.kept

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One every `every` epochs before t_end."""
        if budget.sparsity == 0:
            return ()
        end = self.until * budget.epochs
        exact = end / self.every
        check_count(
            f"regrow: every={self.every!r} makes updates:",
            exact,
            MOST_UPDATES,
            "give a larger every",
        )
        # Not at t_end itself, where the fraction has fallen to zero.
        times = [i * self.every for i in range(1, math.ceil(exact - 1e-9))]
        return tuple(
            Regrow(0, time, self._fraction(time, end), self.growth, self.redistribute)
            for time in times
        )

    def _fraction(self, time: float, end: float) -> float:
        return (
            self.fraction / 2 * (1 + math.cos(math.pi * time / end))
            if self.anneal
            else self.fraction
        )
