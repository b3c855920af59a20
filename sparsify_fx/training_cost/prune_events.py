"""What mask updates cost: a schedule is run to its end, and every step of the Scheduler that changes masks is timed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping, Sequence

from torch.nn import functional as F

from sparsify_fx.errors import StepCountWarning
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.events import UpdateMasks
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.training_cost.timing import Clock
from sparsify_fx.training_cost.trainee import Trainee

# Long enough for the schedules of all methods, which refuse runs that have no room for their updates.
_EPOCHS = 20


def through_schedules(
    trainees: Sequence[Trainee], clock: Clock
) -> dict[str, list[float]]:
    """Bring trainees to the end of their schedules, event by event in turn; seconds of every mask update of each.

    Such a step of the Scheduler does all that belongs to the event: scores, masks, rewinds, optimizer state. Between
    events there is no training, but a compiled model takes a step after each, so that recompiles show.
    """
    schedules = {}
    for trainee in trainees:
        # A dense training has none, nor has one that others have rewritten.
        if programs(trainee.model):
            schedules[trainee] = _scheduler(trainee)
    times: dict[str, list[float]] = {each.name: [] for each in schedules}
    # Between events there is no training, and the Scheduler would tell that once it has seen the optimizer step.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StepCountWarning)
        _run(schedules, times, clock)
    return times


def _run(
    schedules: Mapping[Trainee, Scheduler],
    times: Mapping[str, list[float]],
    clock: Clock,
) -> None:
    updates = {each: _updates(scheduler) for each, scheduler in schedules.items()}
    for step in range(max((each.steps for each in schedules.values()), default=0)):
        for trainee, scheduler in schedules.items():
            if scheduler.finished:
                continue
            if step + 1 not in updates[trainee]:
                scheduler.step()
                continue
            # What lies in cycles since the last event is not this one's to clear.
            gc.collect()
            start = clock()
            scheduler.step()
            times[trainee.name].append(clock() - start)
            if trainee.setting.compile:
                trainee.step()


def _scheduler(trainee: Trainee) -> Scheduler:
    # The rate stays as it is: steps are measured after the end of the schedule, too.
    return Scheduler(
        trainee.model,
        trainee.optimizer,
        epochs=_EPOCHS,
        steps_per_epoch=1,
        learning_rate="constant",
        batches=[(trainee.inputs, trainee.targets)],
        loss_fn=F.cross_entropy,
    )


def _updates(scheduler: Scheduler) -> set[int]:
    """The steps at which masks change."""
    events = scheduler.timeline().events
    return {event.step for event in events if isinstance(event, UpdateMasks)}
