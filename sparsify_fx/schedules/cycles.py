"""cycles: prune, retrain, and again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.schedules.base import MOST_RUNS, SCHEDULES, Budget, OneRun, check_count
from sparsify_fx.schedules.updates import MaskUpdate, Prune


@SCHEDULES.register("cycles")
@dataclass(frozen=True)
class Cycles(OneRun):
    """Prune/retrain cycles: each keeps the fraction `keep` of the weights, the last lands on the requested sparsity.

    After cycle i of n = ⌈log(1 − sparsity) / log(keep)⌉, round(total · keepⁱ) weights are left.

    >>> [update.kept for update in Cycles(keep=0.8).updates(Budget(1000, 0.5))]
    [800, 640, 512, 500]

    Source: [Gadhikar 2024], appendix A.3 (80 % of the remaining weights stay in each cycle).
    """

    keep: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise MethodError(
                f"cycles: keep={self.keep!r} must be a fraction in (0, 1), for instance 0.8"
            )

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One at the start of every run after the first."""
        last = self.runs(budget.sparsity) - 1
        steps = [
            # Of the total and not of the last count: rounding does not add up over the cycles.
            max(budget.kept, kept_count(budget.total, 1 - self.keep**i))
            for i in range(1, last)
        ]
        return tuple(
            Prune(i, 0.0, kept)
            for i, kept in enumerate([*steps, budget.kept][:last], start=1)
        )

    def runs(self, sparsity: float) -> int:
        """n + 1: the dense run and one for every pruning; MethodError for more than `MOST_RUNS`."""
        if sparsity == 0:
            return 1
        # A power of keep must not be taken for a little more than itself, which would add a cycle.
        cycles = math.log(1 - sparsity) / math.log(self.keep) - 1e-9
        check_count(
            f"cycles: keep={self.keep!r} makes cycles:",
            cycles,
            MOST_RUNS,
            "let each keep less, such as 0.8",
        )
        return 1 + math.ceil(cycles)
