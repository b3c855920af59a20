"""Schedules: when the masks change, and to which density.

Time is counted in runs (a run is one training of `epochs` epochs) and epochs within a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sparsify_fx.criteria import CRITERIA
from sparsify_fx.errors import RecipeError, SchedulerError
from sparsify_fx.mask_updates import Decompress, MaskUpdate, Prune, Regrow, SettleAndPrune
from sparsify_fx.masks import kept_count
from sparsify_fx.registry import Registry


@dataclass(frozen=True)
class Budget:
    """What is to be reached: `sparsity` of `total` prunable weights, with runs of `epochs` epochs."""

    total: int
    sparsity: float
    epochs: int = 1

    def __post_init__(self) -> None:
        kept_count(self.total, self.sparsity)

    @property
    def kept(self) -> int:
        """Weights that stay in the end."""
        return kept_count(self.total, self.sparsity)


@runtime_checkable
class Schedule(Protocol):
    """When the masks change. `needs` names inputs that its updates need, beside those of the criterion."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Of "batches" and "loss_fn"."""

    def initial(self, budget: Budget) -> int | None:
        """Weights kept from the start; None inserts no masks at all."""

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """The updates during training, in order; the last lands exactly on the budget."""

    def runs(self, sparsity: float) -> int:
        """How many training runs the whole schedule has."""


SCHEDULES: Registry[type[Any]] = Registry("schedule")


@dataclass(frozen=True)
class _OneRun:
    """The common case: all weights at first, one run."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Nothing more."""
        return ()

    def initial(self, budget: Budget) -> int | None:
        """All."""
        return budget.total

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """None."""
        return ()

    def runs(self, sparsity: float) -> int:
        """One."""
        return 1


@SCHEDULES.register("never")
@dataclass(frozen=True)
class Never(_OneRun):
    """Dense training: no masks; the requested sparsity does not apply."""

    def initial(self, budget: Budget) -> int | None:
        """No masks."""
        return None


@SCHEDULES.register("at-init")
@dataclass(frozen=True)
class AtInit(_OneRun):
    """Pruned before training, in `apply`."""

    def initial(self, budget: Budget) -> int | None:
        """The final budget."""
        return budget.kept


@SCHEDULES.register("one-shot")
@dataclass(frozen=True)
class OneShot(_OneRun):
    """One dense run, one pruning to the final sparsity, one run of retraining."""

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One, at the start of the second run."""
        return () if budget.sparsity == 0 else (Prune(1, 0.0, budget.kept),)

    def runs(self, sparsity: float) -> int:
        """Two runs, or one when nothing is to be pruned."""
        return 1 if sparsity == 0 else 2


@SCHEDULES.register("cycles")
@dataclass(frozen=True)
class Cycles(_OneRun):
    """Prune/retrain cycles: each keeps the fraction `keep` of the weights, the last lands on the requested sparsity.

    After cycle i of n = ⌈log(1 − sparsity) / log(keep)⌉, round(total · keepⁱ) weights are left.

    >>> [update.kept for update in Cycles(keep=0.8).updates(Budget(1000, 0.5))]
    [800, 640, 512, 500]

    Source: paper 000, appendix A.3 (80 % of the remaining weights stay in each cycle).
    """

    keep: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise RecipeError(f"cycles: keep={self.keep!r} must be a fraction in (0, 1), for instance 0.8")

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One at the start of every run after the first."""
        last = self.runs(budget.sparsity) - 1
        steps = [max(budget.kept, kept_count(budget.total, 1 - self.keep**i)) for i in range(1, last)]
        return tuple(Prune(i, 0.0, kept) for i, kept in enumerate([*steps, budget.kept][:last], start=1))

    def runs(self, sparsity: float) -> int:
        """n + 1: the dense run and one for every pruning."""
        if sparsity == 0:
            return 1
        # A power of keep must not be taken for a little more than itself, which would add a cycle.
        return 1 + math.ceil(math.log(1 - sparsity) / math.log(self.keep) - 1e-9)


@SCHEDULES.register("cubic")
@dataclass(frozen=True)
class Cubic(_OneRun):
    """Gradual pruning within one run: s_t = s · (1 − (1 − (t − t0)/(t1 − t0))³) at t = t0 + every, ..., t1.

    s_t is 0 at t0 itself.

    Attributes:
        start, end: t0 and t1 as shares of the run.
        every: epochs between prunings (fractions allowed).

    Source: Zhu & Gupta 2017, eq. 1.
    """

    start: float = 0.1
    end: float = 0.75
    every: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.end < 1 and self.every > 0):
            raise RecipeError(
                f"cubic: expected 0 <= start < end < 1 and every > 0; got start={self.start!r}, end={self.end!r}, "
                f"every={self.every!r}"
            )

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One every `every` epochs between t0 and t1, and one at t1."""
        if budget.sparsity == 0:
            return ()
        first, last = self.start * budget.epochs, self.end * budget.epochs
        count = math.ceil((last - first) / self.every - 1e-9)
        times = [first + i * self.every for i in range(1, count)]
        kept = [kept_count(budget.total, self._sparsity(budget, (time - first) / (last - first))) for time in times]
        return (*(Prune(0, *update) for update in zip(times, kept, strict=True)), Prune(0, last, budget.kept))

    def _sparsity(self, budget: Budget, progress: float) -> float:
        return budget.sparsity * (1 - (1 - progress) ** 3)


@SCHEDULES.register("alternating")
@dataclass(frozen=True)
class Alternating(_OneRun):
    """AC/DC: dense warm-up, then compressed and decompressed phases in turn, a longer dense one, a compressed end.

    Times are shares of the run; the defaults are the published ones for 100 epochs: 10 dense, then phases of 5 until
    epoch 75, dense until 85, compressed to the end.

    Attributes:
        warmup: when the first compressed phase starts.
        phase: length of a phase.
        last_dense: when the last dense phase starts, an odd number of phases after the warm-up.
        end: when the last compressed phase starts.

    Source: Peste et al. 2021, section 4 and appendix.
    """

    warmup: float = 0.1
    phase: float = 0.05
    last_dense: float = 0.75
    end: float = 0.85

    def __post_init__(self) -> None:
        if not (0 <= self.warmup < self.last_dense < self.end < 1 and self.phase > 0):
            raise RecipeError(f"alternating: expected 0 <= warmup < last_dense < end < 1 and phase > 0, got {self}")
        phases = (self.last_dense - self.warmup) / self.phase
        if self._phases() % 2 == 0 or abs(phases - self._phases()) > 1e-6:
            raise RecipeError(
                f"alternating: last_dense − warmup must be an odd number of phases, got {phases:.6g}; with "
                "phase=0.05 and warmup=0.1 last_dense=0.75 makes 13"
            )

    def _phases(self) -> int:
        return round((self.last_dense - self.warmup) / self.phase)

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """Prune at the start of each compressed phase, decompress at the start of each dense one."""
        if budget.sparsity == 0:
            return ()
        found: list[MaskUpdate] = []
        for i in range(self._phases()):
            time = (self.warmup + i * self.phase) * budget.epochs
            found.append(Prune(0, time, budget.kept) if i % 2 == 0 else Decompress(0, time))
        found.append(Decompress(0, self.last_dense * budget.epochs))
        return (*found, Prune(0, self.end * budget.epochs, budget.kept))


@SCHEDULES.register("regrow")
@dataclass(frozen=True)
class RegrowEvery(_OneRun):
    """Sparse from initialisation; every `every` epochs a fraction of each layer's weights moves elsewhere.

    The fraction falls as f_t = (α/2)(1 + cos(π t / t_end)). Those of least `|θ|` are dropped. Grown weights start at
    zero with cleared momentum; one that is dropped and grown at once keeps its value. Every layer keeps its count.

    Attributes:
        growth: criterion of the grown weights: "gradient" (RigL) or "random" (SET).
        fraction: α.
        every: epochs between updates (fractions allowed).
        until: t_end as a share of the run.
        anneal: False keeps the fraction constant (SET).

    Source: Evci et al. 2020, section 3; Mocanu et al. 2018.
    """

    growth: str = "gradient"
    fraction: float = 0.3
    every: float = 1.0
    until: float = 0.75
    anneal: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.fraction < 1 and self.every > 0 and 0 < self.until <= 1):
            raise RecipeError(
                f"regrow: expected fraction in (0, 1), every > 0 and until in (0, 1]; got fraction={self.fraction!r}, "
                f"every={self.every!r}, until={self.until!r}"
            )
        CRITERIA[self.growth]

    @property
    def needs(self) -> tuple[str, ...]:
        """What the growth criterion needs."""
        return tuple(need for need in CRITERIA[self.growth].needs if need != "model")

    def initial(self, budget: Budget) -> int | None:
        """The final budget."""
        return budget.kept

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One every `every` epochs before t_end."""
        if budget.sparsity == 0:
            return ()
        end = self.until * budget.epochs
        times = [i * self.every for i in range(1, math.ceil(end / self.every - 1e-9))]
        return tuple(Regrow(0, time, self._fraction(time, end), self.growth) for time in times)

    def _fraction(self, time: float, end: float) -> float:
        return self.fraction / 2 * (1 + math.cos(math.pi * time / end)) if self.anneal else self.fraction


@SCHEDULES.register("late")
@dataclass(frozen=True)
class Late(_OneRun):
    """For methods that sparsify by themselves: one exact pruning late in the run, then a short fine-tuning.

    Gates and thresholds settle at the pruning: from then on a weight is either kept or masked. When fewer weights than
    the budget are non-zero by then, the pruning raises SparsityError. Penalties with an adaptive strength end there.

    Attributes:
        at: when, as a share of the run.
    """

    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise RecipeError(f"late: at={self.at!r} must be a share of the run in (0, 1), for instance 0.8")

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """One pruning to the budget."""
        return (SettleAndPrune(0, self.at * budget.epochs, budget.kept),)


def check_times(updates: tuple[MaskUpdate, ...], epochs: int, steps_per_epoch: int) -> None:
    """Raise SchedulerError when two updates fall on one step, or the last one on the end: the run is too short."""
    steps = [(update.run, round(update.epoch * steps_per_epoch)) for update in updates]
    if len(set(steps)) < len(steps) or any(step >= epochs * steps_per_epoch for _, step in steps):
        raise SchedulerError(
            f"{len(updates)} mask updates do not fit into runs of {epochs * steps_per_epoch} steps; train for more "
            "epochs, or give a schedule with fewer updates, such as schedule={'name': 'cubic', 'every': 2}"
        )
