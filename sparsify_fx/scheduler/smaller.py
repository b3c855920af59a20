"""A schedule goes on with a model whose weights have lost slices: new plans, and snapshots without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsify_fx.errors import SchedulerError
from sparsify_fx.programs.owners import qualified
from sparsify_fx.scheduler.fingerprint import of_smaller
from sparsify_fx.scheduler.parts import Part

if TYPE_CHECKING:
    from sparsify_fx.scheduler.scheduler import Scheduler
    from sparsify_fx.scheduler.track import Track

Cut = Callable[[str, Tensor], Tensor]
"""What is left of a tensor, by its name in the model."""


def check_plan(part: Part) -> None:
    """Raise SchedulerError where the model was shrunk behind the schedule's back."""
    plan = next(iter(part.programs.values())).plan
    if plan is not part.plan:
        raise SchedulerError(
            part.says(
                "the model is smaller than the schedule knows; call sparsify_fx.shrink(..., scheduler=scheduler), or "
                "build a new Scheduler"
            )
        )


def check_follows(scheduler: Scheduler) -> None:
    """Raise SchedulerError where a snapshot holds the state of an optimizer, in the shapes of then."""
    for track in scheduler._tracks:
        check_plan(track.part)
        if any("optimizer" in snapshot for snapshot in track.snapshots.values()):
            raise SchedulerError(
                track.part.says(
                    "the rewind brings back the state of the optimizer, which has the original shapes; leave it out "
                    "of rewind=, or shrink after the training"
                )
            )


def follow(scheduler: Scheduler, cut: Cut) -> None:
    """Go on with the smaller model; the numbers of weights to keep stay as they were planned."""
    for track in scheduler._tracks:
        _follow(track, cut)
    scheduler._undo = None
    scheduler.total_weights = sum(track.total for track in scheduler._tracks)
    # A checkpoint goes on with a Scheduler that is built on the smaller model.
    scheduler._fingerprint = of_smaller(
        scheduler._fingerprint, scheduler._tracks, scheduler._clock
    )


def _follow(track: Track, cut: Cut) -> None:
    track.plan = next(iter(track.part.programs.values())).plan
    track.part = replace(track.part, plan=track.plan)
    track.pruner = replace(track.pruner, plan=track.plan)
    track.total = track.part.total()
    for point, snapshot in track.snapshots.items():
        track.snapshots[point] = _smaller(snapshot, track.part.prefix, cut)


def _smaller(snapshot: Mapping[str, Any], prefix: str, cut: Cut) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, tensors in snapshot.items():
        # Signs and magnitudes go by the weights' names in the module that `apply` was given.
        start = prefix if what in ("signs", "magnitudes") else ""
        found[what] = {
            name: cut(qualified(start, name), value)
            if isinstance(value, Tensor)
            else value
            for name, value in tensors.items()
        }
    return found
