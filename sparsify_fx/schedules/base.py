"""What a schedule is: when the masks change, and to which density.

Time is counted in runs (a run is one training of `epochs` epochs) and epochs within a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sparsify_fx.errors import SchedulerError
from sparsify_fx.mask_updates import MaskUpdate
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
class OneRun:
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


def check_times(updates: tuple[MaskUpdate, ...], epochs: int, steps_per_epoch: int) -> None:
    """Raise SchedulerError when two updates fall on one step, or the last one on the end: the run is too short."""
    steps = [(update.run, round(update.epoch * steps_per_epoch)) for update in updates]
    if len(set(steps)) < len(steps) or any(step >= epochs * steps_per_epoch for _, step in steps):
        raise SchedulerError(
            f"{len(updates)} mask updates do not fit into runs of {epochs * steps_per_epoch} steps; train for more "
            "epochs, or give a schedule with fewer updates, such as schedule={'name': 'cubic', 'every': 2}"
        )
