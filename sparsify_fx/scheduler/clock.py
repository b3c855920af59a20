"""The clock of a schedule: runs, epochs and optimizer steps, and where the rewind points lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import Curve, HandsOff, TorchSchedule
from sparsify_fx.rewinds import Epoch

if TYPE_CHECKING:
    from sparsify_fx.scheduler.parts import Part


@dataclass(frozen=True)
class Clock:
    """The first run has `run_epochs` epochs; each of the others starts at `restart_epoch` of it.

    >>> clock = Clock(run_epochs=10, steps_per_epoch=5, runs=3, restart_epoch=2)
    >>> clock.epochs, clock.steps, clock.start(2), clock.locate(91)
    (26, 130, 90, (2, 1))
    """

    run_epochs: int
    steps_per_epoch: int
    runs: int
    restart_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs over all runs."""
        return self.run_epochs + (self.runs - 1) * self.length(1)

    @property
    def steps(self) -> int:
        """Optimizer steps over all runs."""
        return self.epochs * self.steps_per_epoch

    def length(self, run: int) -> int:
        """Epochs of one run: later ones leave out those before the restart."""
        return self.run_epochs if run == 0 else self.run_epochs - self.restart_epoch

    def start(self, run: int) -> int:
        """The first step of a run."""
        return (
            0
            if run == 0
            else (self.run_epochs + (run - 1) * self.length(run)) * self.steps_per_epoch
        )

    def step_of(self, run: int, epoch: float) -> int:
        """The step after `epoch` epochs of a run."""
        return self.start(run) + round(epoch * self.steps_per_epoch)

    def locate(self, step: int) -> tuple[int, int]:
        """(run, steps since its start)."""
        # Apart from the others: later runs start at the restart epoch and may be shorter.
        first = self.run_epochs * self.steps_per_epoch
        if step < first:
            return 0, step
        later, since = divmod(step - first, self.length(1) * self.steps_per_epoch)
        return later + 1, since


def make_clock(
    run_epochs: int,
    steps_per_epoch: int,
    runs: int,
    restart: Epoch | None,
    curve: Curve | TorchSchedule,
) -> Clock:
    """The clock of a schedule whose learning rate goes back to `restart` at each run.

    Raises SchedulerError on impossible lengths.
    """
    for name, value in (("epochs", run_epochs), ("steps_per_epoch", steps_per_epoch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SchedulerError(f"{name}={value!r} must be a whole number >= 1")
    # Rounded up to a whole epoch, since epochs of data cannot start in their middle.
    restart_epoch = (
        0 if restart is None else math.ceil(resolve(restart, curve, run_epochs))
    )
    # A later run without an epoch would leave no step between two prunings.
    if restart_epoch >= run_epochs:
        raise SchedulerError(
            f"each later run starts with the learning rate of {restart!r}, at the next whole epoch after it, which is "
            f"{restart_epoch}, and a run has only {run_epochs} epochs; train for more, or give fewer steps_per_epoch"
        )
    return Clock(run_epochs, steps_per_epoch, runs, restart_epoch)


def runs_of(
    parts: Sequence[Part], curve: Curve | TorchSchedule
) -> tuple[Epoch | None, int]:
    """(where the learning rate goes back to at each run, number of runs), for all parts together.

    Raises SchedulerError when parts want it otherwise, or the rate is not the Scheduler's to rewind.
    """
    # 1. Only parts with several runs rewind anything; where there are none, the first speaks for all.
    runs = {part: part.plan.axes.schedule.runs(part.plan.sparsity) for part in parts}
    longest = [part for part in parts if runs[part] > 1] or list(parts[:1])

    # 2. Keyed by the rewind point: parts that want the same one agree, whatever their methods.
    wanted = {part.plan.axes.rewind.learning_rate: part for part in longest}
    if len(wanted) > 1:
        told = " and ".join(
            f"{part.name} ({part.plan.method}): {point!r}"
            for point, part in wanted.items()
        )
        raise SchedulerError(
            f"parts of one training share its learning rate, but rewind it to different points: {told}; give one of "
            "them rewind={'learning_rate': ...} of the other"
        )
    ((restart, part),) = wanted.items()

    # 3. A rate that is left to others cannot be brought back, and a run at the last rate of the one before learns
    # nothing.
    if isinstance(curve, HandsOff) and runs[part] > 1 and restart is not None:
        raise SchedulerError(
            f"{part.plan.method} rewinds the learning rate at each of its {runs[part]} runs, but learning_rate=None "
            "leaves the rate to others; name a curve, or apply the method with rewind={'learning_rate': None}"
        )
    return restart, max(runs.values())


def resolve(point: Epoch, curve: Curve | TorchSchedule, run_epochs: int) -> float:
    """A rewind point in epochs of the first run: "init" is 0, "warmup" the end of the curve's warm-up.

    Raises SchedulerError when the curve has no warm-up, or the point lies beyond the run.
    """
    if point == "init":
        return 0.0
    # A torch scheduler does not tell how long its warm-up is, so "warmup" finds none there.
    epoch = (
        float(point)
        if point != "warmup"
        else curve.warmup_epochs(run_epochs)
        if isinstance(curve, Curve)
        else 0.0
    )
    if point == "warmup" and epoch == 0:
        raise SchedulerError(
            "the method rewinds to the end of the warm-up, but this learning-rate curve has none; choose one with a "
            "warm-up, or give apply a rewind point in epochs, such as rewind={'weights': 2, 'optimizer': 2}"
        )
    if epoch >= run_epochs:
        raise SchedulerError(
            f"rewind point {point!r} is epoch {epoch:g}, but the run has only {run_epochs} epochs"
        )
    return epoch
