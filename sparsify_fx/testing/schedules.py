"""The laws of a schedule: updates in order, within the runs, and exactly on the budget in the end."""

from __future__ import annotations

from collections.abc import Iterable

from sparsify_fx.recipe import axis_value
from sparsify_fx.schedules import Budget, Schedule
from sparsify_fx.schedules.updates import MaskUpdate
from sparsify_fx.testing.small import ensure

TOTAL = 1000  # weights of the schedules that are checked


def check_schedule(schedule: str | Schedule) -> None:
    """Updates are in order and within the runs, they end exactly on the budget, and are the same when asked again.

    >>> check_schedule("cycles")
    """
    found: Schedule = axis_value("schedule", schedule)
    # Nothing to prune; a few cycles; so many that the last ones have single weights to go. 8 epochs are
    # few enough for updates to meet.
    for sparsity in (0.0, 0.5, 0.9, 0.98):
        for epochs in (8, 40):
            _lands(found, Budget(TOTAL, sparsity, epochs))


def _lands(schedule: Schedule, budget: Budget) -> None:
    """One schedule at one sparsity and length."""
    initial, updates = schedule.initial(budget), schedule.updates(budget)
    runs = schedule.runs(budget.sparsity)
    told = f"{schedule} at sparsity {budget.sparsity:g} in {budget.epochs} epochs"
    ensure(
        updates == schedule.updates(budget), f"{told}: other updates when asked again"
    )
    times = [(update.run, update.epoch) for update in updates]
    ensure(
        times == sorted(set(times)),
        f"{told}: updates are not in order, or two at one time: {times}",
    )
    for run, epoch in times:
        ensure(
            0 <= run < runs, f"{told}: an update in run {run}, and runs() says {runs}"
        )
        ensure(
            0 <= epoch < budget.epochs,
            f"{told}: an update at epoch {epoch:g}, beyond the run",
        )
    # None: the method has no masks at all, which is not the same as masks that keep everything.
    if initial is None:
        ensure(
            not updates,
            f"{told}: initial() gives no masks, and updates would change them",
        )
        return
    alive = _alive(updates, initial, told)
    ensure(
        alive == budget.kept,
        f"{told}: {alive} of {TOTAL} weights are left, the budget is {budget.kept}",
    )


def _alive(updates: Iterable[MaskUpdate], alive: int, told: str) -> int:
    """Weights left after all updates."""
    for update in updates:
        alive = update.alive(alive, TOTAL)
        ensure(
            0 < alive <= TOTAL, f"{told}: {update} leaves {alive} of {TOTAL} weights"
        )
    return alive
