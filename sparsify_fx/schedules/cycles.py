"""cycles: prune, retrain, and again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.registry import added_option
from sparsify_fx.schedules.base import MOST_RUNS, SCHEDULES, Budget, OneRun, check_count
from sparsify_fx.schedules.updates import MaskUpdate, Prune


@SCHEDULES.register("cycles")
@dataclass(frozen=True)
class Cycles(OneRun):
    """Prune/retrain cycles: each keeps the fraction `keep` of the weights, the last lands on the requested sparsity.

    After cycle i of n = ⌈log(1 − sparsity) / log(keep)⌉, round(total · keepⁱ) weights are left.

    >>> [update.kept for update in Cycles(keep=0.8).updates(Budget(1000, 0.5))]
    [800, 640, 512, 500]

    Attributes:
        keep: the fraction of the weights that stay in each cycle.
        trained: the net is trained already: it is pruned at once, and there is no dense run.

    Source: [Gadhikar 2024], appendix A.3 (80 % of the remaining weights stay in each cycle).
    """

    keep: float = 0.8
    trained: bool = added_option(False)

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise MethodError(
                f"cycles: keep={self.keep!r} must be a fraction in (0, 1), for instance 0.8"
            )

    def initial(self, budget: Budget) -> int | None:
        """All weights; those that the first cycle leaves, of a net that is trained already."""
        return self._counts(budget)[0] if self._prunes_at_once(budget) else budget.total

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One at the start of every run after the first."""
        counts = self._counts(budget)
        later = counts[1:] if self._prunes_at_once(budget) else counts
        return tuple(Prune(i, 0.0, kept) for i, kept in enumerate(later, start=1))

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> Cycles:
        """No dense run, and so many cycles, of equal length, as these epochs have room for."""
        if sparsity == 0:
            return self
        wanted = self._cycles(sparsity)
        # Each cycle has the same whole number of epochs, and more than one only where they all have.
        fitting = epochs // math.ceil(epochs / wanted)
        return Cycles(keep=(1 - sparsity) ** (1 / fitting), trained=True)

    def _prunes_at_once(self, budget: Budget) -> bool:
        return self.trained and budget.sparsity > 0

    def _counts(self, budget: Budget) -> list[int]:
        """The weights that each cycle leaves."""
        last = self._cycles(budget.sparsity)
        steps = [
            # Of the total and not of the last count: rounding does not add up over the cycles.
            max(budget.kept, kept_count(budget.total, 1 - self.keep**i))
            for i in range(1, last)
        ]
        return [*steps, budget.kept][:last]

    def runs(self, sparsity: float) -> int:
        """The dense run, if any, and one for every pruning; MethodError for more than `MOST_RUNS`."""
        if sparsity == 0:
            return 1
        return self._cycles(sparsity) + (not self.trained)

    def _cycles(self, sparsity: float) -> int:
        """How many prunings there are."""
        if sparsity == 0:
            return 0
        # A power of keep must not be taken for a little more than itself, which would add a cycle.
        cycles = math.log(1 - sparsity) / math.log(self.keep) - 1e-9
        check_count(
            f"cycles: keep={self.keep!r} makes cycles:",
            cycles,
            MOST_RUNS,
            "let each keep less, such as 0.8",
        )
        return math.ceil(cycles)
