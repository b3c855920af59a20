"""gradual and gradual-cycles: a trained net is pruned along a cubic curve, in one more run or in many."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.schedules.base import (
    MOST_RUNS,
    MOST_UPDATES,
    SCHEDULES,
    Budget,
    OneRun,
    check_count,
)
from sparsify_fx.schedules.updates import MaskUpdate, Prune


@SCHEDULES.register("gradual")
@dataclass(frozen=True)
class Gradual(OneRun):
    """A dense run, then one in which the net is pruned `prunings` times along a cubic curve.

    s_i = s · (1 − (1 − first)(1 − i/(n − 1))³) at n equal steps of time from `start` to `end`; the last is s itself.

    Attributes:
        prunings: n >= 1.
        start, end: shares of the second run.
        first: the share of the requested sparsity that the first pruning reaches, in [0, 1).
        trained: the net is trained already, and there is no dense run.

    >>> [round(1 - update.kept / 1000, 2) for update in Gradual(prunings=3, first=0.5).updates(Budget(1000, 0.8))]
    [0.4, 0.75, 0.8]

    Source: [Zhu 2017], eq. 1; the values are those of [Singh 2020], whose code prunes ResNet-50 at epochs 1, 6, ..., 36
    of 100, from sparsity 0.05 on.
    """

    prunings: int = 8
    start: float = 0.01
    end: float = 0.4
    first: float = 0.05
    trained: bool = False

    def __post_init__(self) -> None:
        _check("gradual", "prunings", self.prunings, self.first)
        if not 0 <= self.start < self.end < 1:
            raise MethodError(
                f"gradual: expected 0 <= start < end < 1, got start={self.start!r}, end={self.end!r}"
            )
        check_count("gradual: prunings", self.prunings, MOST_UPDATES, "give fewer")

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """The prunings of the second run, or of the only one."""
        if budget.sparsity == 0:
            return ()
        run, length = int(not self.trained), self.end - self.start
        kept = _curve(budget, self.prunings, self.first)
        last = self.prunings - 1
        return tuple(
            # A single pruning is the last one.
            Prune(
                run,
                (self.end - length * (last - i) / max(last, 1)) * budget.epochs,
                count,
            )
            for i, count in enumerate(kept)
        )

    def runs(self, sparsity: float) -> int:
        """Two, or one when the net is trained already or nothing is to be pruned."""
        return 1 if self.trained or sparsity == 0 else 2

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> Gradual:
        """Without the dense run, with as many prunings as there are steps."""
        fitting = max(1, math.floor((self.end - self.start) * steps))
        return replace(self, prunings=min(self.prunings, fitting), trained=True)


@SCHEDULES.register("gradual-cycles")
@dataclass(frozen=True)
class GradualCycles(OneRun):
    """A dense run, then prune/retrain cycles whose sparsities lie on a cubic curve.

    s_i = s · (1 − (1 − first)(1 − i/(n − 1))³) for cycle i = 0, ..., n − 1. Each cycle has the learning rate of a run.

    Attributes:
        cycles: n >= 1.
        first: the share of the requested sparsity that the first pruning reaches, in [0, 1).
        trained: the net is trained already: it is pruned at once, and there is no dense run.

    >>> [round(1 - update.kept / 1000, 2) for update in GradualCycles(cycles=3).updates(Budget(1000, 0.8))]
    [0.4, 0.75, 0.8]

    Source: [Kuznedelev 2023], its recipes: a pruning and a cycle of the learning rate every 20 epochs. They go from 0.5
    to 0.9 in 14 prunings on straight lines that get flatter; the cubic curve of [Zhu 2017] is ours.
    """

    cycles: int = 4
    first: float = 0.5
    trained: bool = False

    def __post_init__(self) -> None:
        _check("gradual-cycles", "cycles", self.cycles, self.first)
        check_count("gradual-cycles: cycles", self.cycles, MOST_RUNS, "give fewer")

    def initial(self, budget: Budget) -> int | None:
        """All weights; those that the first cycle leaves, of a net that is trained already."""
        at_once = self.trained and budget.sparsity > 0
        return _curve(budget, self.cycles, self.first)[0] if at_once else budget.total

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One at the start of every run after the first."""
        if budget.sparsity == 0:
            return ()
        kept = _curve(budget, self.cycles, self.first)
        later = kept[1:] if self.trained else kept
        return tuple(Prune(i, 0.0, count) for i, count in enumerate(later, start=1))

    def runs(self, sparsity: float) -> int:
        """The dense run, if any, and one for every pruning."""
        return 1 if sparsity == 0 else self.cycles + (not self.trained)

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> GradualCycles:
        """Without the dense run, and with as many cycles of equal length as these epochs have room for."""
        wanted = min(self.cycles, epochs)
        return replace(self, cycles=epochs // math.ceil(epochs / wanted), trained=True)


def _check(name: str, what: str, count: object, first: float) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MethodError(f"{name}: {what}={count!r} must be a whole number >= 1")
    if not 0 <= first < 1:
        raise MethodError(
            f"{name}: first={first!r} must be a share of the sparsity in [0, 1), for instance 0.5"
        )


def _curve(budget: Budget, count: int, first: float) -> list[int]:
    """Weights that are left after each pruning; the last lands on the budget."""
    kept = []
    for i in range(count - 1):
        left = (1 - first) * (1 - i / (count - 1)) ** 3
        kept.append(kept_count(budget.total, budget.sparsity * (1 - left)))
    return [*kept, budget.kept]
