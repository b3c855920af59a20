"""Budgets: how the optimizer steps of a trainer are divided into the epochs and runs of a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import Constant, Curve, HandsOff, TorchSchedule
from sparsify_fx.scheduler.clock import Clock, make_clock, runs_of
from sparsify_fx.scheduler.parts import parts_of

# A trainer that counts steps alone has no epochs, and schedules speak of them: its steps make this many, of at least so
# many steps that one pruning in each finds its place.
EPOCHS_OF_STEPS, SHORTEST_EPOCH = 100, 4


@dataclass(frozen=True)
class Budget:
    """What a trainer is going to do.

    Attributes:
        steps: optimizer steps in all.
        steps_per_epoch: of one pass over the data; None where nobody knows.

    >>> Budget(steps=300, steps_per_epoch=100).epochs, Budget(steps=250, steps_per_epoch=100).epochs
    (3, 2)
    >>> Budget(steps=5000).epochs
    100
    """

    steps: int
    steps_per_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """Passes over the data, to the nearest; made up where they are not known or none ends."""
        if self.steps_per_epoch is None or self.steps_per_epoch > self.steps:
            return max(min(self.steps // SHORTEST_EPOCH, EPOCHS_OF_STEPS), 1)
        return round(self.steps / self.steps_per_epoch)


def length_of_run(
    model: nn.Module, budget: Budget, curve: Curve | TorchSchedule
) -> tuple[int, int]:
    """(epochs of the first run, steps_per_epoch) for a Scheduler that ends within the budget.

    All runs together are as long as the budget allows: the longest first run for which they fit, and then as many steps
    in an epoch as fit. With R runs that start at epoch r: R·epochs − (R−1)·r <= budget.epochs. What is left over, fewer
    steps than there are epochs, is trained on after the schedule, with the masks of its end.

    Raises SchedulerError for a budget that is too short for the runs of the method.
    """
    parts = parts_of(model)
    restart, runs = runs_of(parts, curve)

    def clock(epochs: int) -> Clock | None:
        # Refused where the restart of later runs lies beyond the first one.
        try:
            return make_clock(epochs, 1, runs, restart, curve)
        except SchedulerError:
            return None

    # Downward from the whole budget: the first that fits is the longest.
    for epochs in range(budget.epochs, 0, -1):
        found = clock(epochs)
        if found is not None and found.epochs <= budget.epochs:
            return epochs, budget.steps // found.epochs

    # Upward, to say what would do.
    lengths = (clock(epochs) for epochs in range(1, 1000))
    enough = next((found.epochs for found in lengths if found is not None), None)
    told = f"at least {enough} epochs" if enough else "more epochs than can be given"
    raise SchedulerError(
        f"{parts[0].plan.method} trains {runs} runs, which take {told} together, and the trainer makes "
        f"{budget.epochs} ({budget.steps} optimizer steps): train for more epochs, or give the method fewer runs, for "
        'instance schedule={"name": "cycles", "keep": 0.5}'
    )


def rewinds_rate(model: nn.Module) -> bool:
    """Whether the method of a prepared model brings the learning rate back at each of its runs."""
    restart, runs = runs_of(parts_of(model), Constant())
    return runs > 1 and restart is not None


def check_rate(model: nn.Module, curve: object, trainer: str) -> None:
    """Raise SchedulerError for a method that rewinds the learning rate when it is left to the trainer."""
    if isinstance(curve, HandsOff) and rewinds_rate(model):
        raise SchedulerError(
            f"{parts_of(model)[0].plan.method} brings the learning rate back at each of its runs, and {trainer} does "
            'not: let the callback set it, with learning_rate="cosine-warmup" or another curve, and take any other '
            "learning-rate scheduler away; or leave it with rewind={'learning_rate': None}"
        )
