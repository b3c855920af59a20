"""never, at-init, one-shot and late: schedules with at most one pruning."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_fx.errors import MethodError
from sparsify_fx.schedules.base import SCHEDULES, Budget, OneRun
from sparsify_fx.schedules.updates import MaskUpdate, Prune, SettleAndPrune


@SCHEDULES.register("never")
@dataclass(frozen=True)
class Never(OneRun):
    """Dense training: no masks; the requested sparsity does not apply."""

    def initial(self, budget: Budget) -> int | None:
        """None: no masks are put in at all."""
        return None


@SCHEDULES.register("at-init")
@dataclass(frozen=True)
class AtInit(OneRun):
    """Pruned before training, in `apply`."""

    def initial(self, budget: Budget) -> int | None:
        """The final budget: nothing is left to prune in training."""
        return budget.kept


@SCHEDULES.register("one-shot")
@dataclass(frozen=True)
class OneShot(OneRun):
    """One dense run, one pruning to the final sparsity, one run of retraining."""

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One, at the start of the second run."""
        return () if budget.sparsity == 0 else (Prune(1, 0.0, budget.kept),)

    def runs(self, sparsity: float) -> int:
        """Two runs, or one when nothing is to be pruned."""
        return 1 if sparsity == 0 else 2

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> AtInit:
        """At once, and one run of retraining."""
        return AtInit()


@SCHEDULES.register("late")
@dataclass(frozen=True)
class Late(OneRun):
    """For methods that sparsify by themselves: one exact pruning late in the run, then a short fine-tuning.

    Gates and thresholds settle at the pruning: from then on a weight is either kept or masked. When fewer weights than
    the budget are non-zero by then, those nearest to open come back, with an OvershootWarning. Penalties with an
    adaptive strength end there.

    Attributes:
        at: when, as a share of the run. 1.0 prunes after the last step: the penalty works to the very end, and nothing
            is fine-tuned. At sparsity 0 nothing is pruned then, and the analysis `prune-curve` prunes what was trained
            to many levels.
    """

    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at <= 1:
            raise MethodError(
                f"late: at={self.at!r} must be a share of the run in (0, 1], for instance 0.8"
            )

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One pruning to the budget."""
        # At sparsity 0 too: gates have to settle, or they would go on drawing noise.
        return (SettleAndPrune(0, self.at * budget.epochs, budget.kept),)
