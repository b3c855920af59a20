"""What the Scheduler does at a step: the tracks that know the events, and how those of one step happen."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparsify_fx.distributed.ranks import (
    check_equal_masks,
    check_equal_weights,
    together,
)
from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import Curve, HandsOff, TorchSchedule
from sparsify_fx.plan import Inputs
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.progress import UNKNOWN, Progress
from sparsify_fx.scheduler.clock import Clock
from sparsify_fx.scheduler.parts import Part, belonging
from sparsify_fx.scheduler.timeline import Event
from sparsify_fx.scheduler.track import Track

_LOG = logging.getLogger(__name__)


def follow(
    model: nn.Module,
    parts: Sequence[Part],
    optimizers: Sequence[Optimizer],
    clock: Clock,
    curve: Curve | TorchSchedule,
    inputs: Inputs,
) -> list[Track]:
    """A track for each part of the model; with several of them, each with the state that belongs to it alone."""
    owner = belonging(tuple(parts), iter(model.state_dict())) if len(parts) > 1 else {}
    tracks = []
    for number, part in enumerate(parts):
        names = (
            frozenset(name for name, of in owner.items() if of == number)
            if owner
            else None
        )
        tracks.append(Track(part, names, tuple(optimizers), clock, curve, inputs))
    return tracks


def check_in_step(
    step: int, steps: int, progress: Sequence[Progress], no_room: str
) -> None:
    """SchedulerError when the weights are those of another step, or `no_room` says why they cannot go on at all."""
    if no_room:
        raise SchedulerError(no_room)
    odd = [each.step for each in progress if each.step not in (step, UNKNOWN)]
    if odd:
        raise SchedulerError(
            f"the weights are those after {odd[0]} of {steps} optimizer steps, the Scheduler is at step {step}: load "
            "the saved states of both, with model.load_state_dict and scheduler.load_state_dict; or begin anew from "
            "these weights with Scheduler(..., start_over=True)"
        )


def run_events(model: nn.Module, step: int, events: Sequence[Event]) -> None:
    """Let the events of a step happen, in order and on all ranks together; masks are compared before and after."""
    if not events:
        return
    moment = f"the events of step {step}"
    check_equal_masks(programs(model), f"before {moment}")
    check_equal_weights(programs(model), f"before {moment}")
    with together(moment):
        for event in events:
            _LOG.debug(
                "step %d: %s%s %s",
                step,
                event.part and f"{event.part}: ",
                event.what,
                event.detail,
            )
            event.do()
    check_equal_masks(programs(model), f"after {moment}")


def rate_fact(curve: Curve | TorchSchedule) -> Event:
    """What the timeline tells of the learning rate."""
    told = (
        repr(curve)
        if isinstance(curve, Curve)
        else f"torch scheduler of {_name(curve)}"
    )
    if isinstance(curve, HandsOff):
        told = "left to others (learning_rate=None)"
    return Event(0, 0, 0, "learning rate", told, lambda: None)


def _name(factory: Any) -> str:
    return getattr(factory, "__qualname__", type(factory).__name__)
