"""Events: what the Scheduler does at a step, one class for each kind, and how those of one step happen.

`sparsify_fx.scheduler.agenda` says which of them a plan makes, and when.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from sparsify_fx.actions import TimedAction
from sparsify_fx.distributed.ranks import (
    check_equal_masks,
    check_equal_weights,
    together,
)
from sparsify_fx.programs.owners import programs
from sparsify_fx.rewinds import Epoch
from sparsify_fx.scheduler.timeline import Event
from sparsify_fx.schedules.updates import MaskUpdate

if TYPE_CHECKING:
    from sparsify_fx.scheduler.track import Track

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackEvent(Event):
    """An event that changes the part of one track. Events are equal when the timeline tells them alike."""

    track: Track = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class UpdateMasks(TrackEvent):
    """The schedule prunes, regrows or decompresses.

    Attributes:
        draw: number of the update in the training, from 1.
    """

    update: MaskUpdate = field(repr=False, compare=False)
    draw: int = field(repr=False, compare=False)

    def perform(self) -> None:
        """Update the masks, and look for layers that died of it."""
        self.track.update_masks(self.update, self.draw)


@dataclass(frozen=True, kw_only=True)
class RewindTo(TrackEvent):
    """One of `snapshots.PARTS` goes back to what it was at a rewind point."""

    back: str = field(repr=False, compare=False)
    point: Epoch = field(repr=False, compare=False)

    def perform(self) -> None:
        """Write the snapshot of the point, under the masks of now."""
        self.track.rewind(self.back, self.point)


@dataclass(frozen=True, kw_only=True)
class RunAction(TrackEvent):
    """A timed action, such as rescaling."""

    action: TimedAction = field(repr=False, compare=False)

    def perform(self) -> None:
        """Let the action change the part's weights, and the optimizers follow."""
        self.track.act(self.action, self.run, self.epoch)


@dataclass(frozen=True, kw_only=True)
class TakeSnapshot(TrackEvent):
    """What later runs rewind is copied."""

    point: Epoch = field(repr=False, compare=False)

    def perform(self) -> None:
        """Copy all that goes back to this point."""
        self.track.take_snapshot(self.point)


def run_events(model: nn.Module, step: int, events: Sequence[Event]) -> None:
    """Let the events of a step happen, in order and on all ranks together; masks are compared before and after."""
    if not events:
        return  # nearly always; comparing waits for the device and for every rank

    # Ranks that differ already would choose by different weights: say so before, while it is not the events' fault.
    moment = f"the events of step {step}"
    check_equal_masks(programs(model), f"before {moment}")
    check_equal_weights(programs(model), f"before {moment}")

    # An event that raises on one rank would leave the others waiting in a collective; together all of them raise.
    with together(moment):
        for event in events:
            _LOG.debug(
                "step %d: %s%s %s",
                step,
                event.part and f"{event.part}: ",
                event.what,
                event.detail,
            )
            event.perform()

    # Criteria may read data of the rank's own, so equal weights before do not yet make equal masks.
    check_equal_masks(programs(model), f"after {moment}")
