"""What a schedule is: when the masks change, and to which density.

Time is counted in runs (a run is one training of `epochs` epochs) and epochs within a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.registry import Registry
from sparsify_fx.schedules.updates import MaskUpdate, SettleAndPrune

MOST_UPDATES = 100_000
"""Mask updates of one training."""
MOST_RUNS = 10_000
"""Runs (cycles) of one training."""
MOST_EPOCHS = 1_000_000
"""Epochs of one training, over all its runs."""


@dataclass(frozen=True)
class Budget:
    """What is to be reached: `sparsity` of `total` prunable weights, with runs of `epochs` epochs.

    Raises SparsityError for a sparsity that keeps nothing, SchedulerError for more than `MOST_EPOCHS`.
    """

    total: int
    sparsity: float
    epochs: int = 1

    def __post_init__(self) -> None:
        kept_count(self.total, self.sparsity)
        if self.epochs > MOST_EPOCHS:
            raise SchedulerError(
                f"epochs={self.epochs} is more than the {MOST_EPOCHS:,} that a training may have"
            )

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


@runtime_checkable
class ForTrained(Protocol):
    """A schedule that begins with dense training, which a net that is trained already does not need."""

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> Schedule:
        """The same without that, its runs and phases fit for a training of `epochs` epochs, `steps` steps, in all."""


SCHEDULES: Registry[type[Any]] = Registry("schedule")


@dataclass(frozen=True)
class OneRun:
    """The common case: all weights at first, one run."""

    @property
    def needs(self) -> tuple[str, ...]:
        """No inputs beside those of the criterion."""
        return ()

    def initial(self, budget: Budget) -> int | None:
        """All weights, under masks that prunings will change."""
        return budget.total

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """No mask changes later on."""
        return ()

    def runs(self, sparsity: float) -> int:
        """One run, whatever the sparsity."""
        return 1


def check_count(what: str, count: float, most: int, remedy: str) -> None:
    """Raise MethodError when a schedule would make more than `most` of something, before it makes them.

    >>> check_count("cubic: every=1e-09 makes", 6.5e9, MOST_UPDATES, "give a larger every")
    Traceback (most recent call last):
    sparsify_fx.errors.MethodError: cubic: every=1e-09 makes 6.5e+09 of at most 100,000; give a larger every
    """
    if not count <= most:
        raise MethodError(f"{what} {count:.6g} of at most {most:,}; {remedy}")


def check_times(
    updates: tuple[MaskUpdate, ...], epochs: int, steps_per_epoch: int
) -> None:
    """Raise SchedulerError for updates that do not fit into the runs, or for runs of more than `MOST_EPOCHS` in all.

    Two updates may not fall on one step, nor the last one on the end: such a run is too short. A settling alone may
    fall on the end, since no training has to follow it.
    """
    # Run 0 is there even when nothing changes in it.
    runs = 1 + max((update.run for update in updates), default=0)
    if runs * epochs > MOST_EPOCHS:
        raise SchedulerError(
            f"{runs} runs of {epochs} epochs are {runs * epochs:,} epochs, more than the {MOST_EPOCHS:,} that a "
            "training may have; give fewer epochs, or cycles that prune more, such as keep=0.8"
        )
    # Two updates on one step would run one after the other without training between them.
    steps = [(update.run, round(update.epoch * steps_per_epoch)) for update in updates]
    ends = [
        step + (not isinstance(update, SettleAndPrune))
        for update, (_, step) in zip(updates, steps, strict=True)
    ]
    if len(set(steps)) < len(steps) or any(
        end > epochs * steps_per_epoch for end in ends
    ):
        raise SchedulerError(
            f"{len(updates)} mask updates do not fit into runs of {epochs * steps_per_epoch} steps; train for more "
            "epochs, or give a schedule with fewer updates, such as schedule={'name': 'cubic', 'every': 2}"
        )
