"""cycles: prune, retrain, and again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsify_fx.criteria import CRITERIA, Criterion
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
        start: the share of the weights that a random mask keeps from initialization on, by the method's allocation; the
            cycles go on from there. 1 starts dense.

    Source: [Gadhikar 2024], appendix A.3 (80 % of the remaining weights stay in each cycle); start: [Gadhikar 2023],
    sparse-to-sparse training from a random mask, as [Gadhikar 2024], section 1, cites it.
    """

    keep: float = 0.8
    trained: bool = added_option(False)
    start: float = added_option(1.0)

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise MethodError(
                f"cycles: keep={self.keep!r} must be a fraction in (0, 1), for instance 0.8"
            )
        if not 0 < self.start <= 1:
            raise MethodError(
                f"cycles: start={self.start!r} must be a density in (0, 1], for instance 0.5; 1 starts dense"
            )
        if self.trained and self.start < 1:
            raise MethodError(
                f"cycles: start={self.start!r} begins with a random mask, which a trained net has no use for; "
                "leave out one of start and trained"
            )

    def initial(self, budget: Budget) -> int | None:
        """All weights, or those of the random mask; those that the first cycle leaves, of a trained net."""
        if self._prunes_at_once(budget):
            return self._counts(budget)[0]
        self._check_start(budget.sparsity)
        return max(budget.kept, kept_count(budget.total, 1 - self.start))

    @property
    def first_criterion(self) -> Criterion | None:
        """What chooses the first mask, where it is not the method's own criterion."""
        return CRITERIA["random"] if self.start < 1 else None

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
            max(budget.kept, kept_count(budget.total, 1 - self.start * self.keep**i))
            for i in range(1, last)
        ]
        return [*steps, budget.kept][:last]

    def runs(self, sparsity: float) -> int:
        """The dense run, if any, and one for every pruning; MethodError for more than `MOST_RUNS`."""
        if sparsity == 0:
            self._check_start(sparsity)
            return 1
        return self._cycles(sparsity) + (not self.trained)

    def _check_start(self, sparsity: float) -> None:
        """MethodError where the first mask keeps fewer weights than the last shall."""
        if self.start < 1 - sparsity:
            raise MethodError(
                f"cycles: start={self.start!r} keeps fewer weights than the {1 - sparsity:.6g} of "
                f"sparsity={sparsity!r}; give a larger start or a higher sparsity"
            )

    def _cycles(self, sparsity: float) -> int:
        """How many prunings there are."""
        if sparsity == 0:
            return 0
        # A power of keep must not be taken for a little more than itself, which would add a cycle.
        self._check_start(sparsity)
        cycles = math.log((1 - sparsity) / self.start) / math.log(self.keep) - 1e-9
        check_count(
            f"cycles: keep={self.keep!r} makes cycles:",
            cycles,
            MOST_RUNS,
            "let each keep less, such as 0.8",
        )
        return math.ceil(cycles)
