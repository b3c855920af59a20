"""Fingerprint: what must be the same for a saved schedule to go on, as plain data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import Curve, TorchSchedule
from sparsify_fx.scheduler.clock import Clock

if TYPE_CHECKING:
    from sparsify_fx.scheduler.track import Track

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(
    tracks: Sequence[Track], clock: Clock, curve: Curve | TorchSchedule | None
) -> dict[str, Any]:
    """Methods with all their axes, lengths, the number of weights, and the learning rate."""
    told = [_told(track) for track in tracks]
    plans = [
        {**each, "part": track.part.name}
        for each, track in zip(told, tracks, strict=True)
    ]
    # One part is told flat, as before there were parts, so that checkpoints of then go on.
    plan = told[0] if len(plans) == 1 else {"parts": plans}
    lengths = {"epochs": clock.run_epochs, "steps_per_epoch": clock.steps_per_epoch}
    # A factory of torch schedulers is code: nothing of it can be compared between processes.
    rates = repr(curve) if isinstance(curve, Curve) else "torch scheduler"
    return _plain(
        {
            **plan,
            **lengths,
            "weights": sum(track.total for track in tracks),
            "learning_rate": rates,
        }
    )


def of_smaller(before: Mapping[str, Any], tracks: Sequence[Track], clock: Clock) -> dict[str, Any]:  # fmt: skip
    """The fingerprint of a schedule whose model has lost weights: that of a Scheduler built on the smaller one."""
    rates = before["learning_rate"]
    return {**fingerprint(tracks, clock, None), "learning_rate": rates}


def _told(track: Track) -> dict[str, Any]:
    """The plan of a track; its axes under the names that files hold, so that schedules saved by 0.1 go on."""
    return {**track.plan.to_dict(), "axes": track.plan.axes.to_dict(stored=True)}


def digest(content: Mapping[str, Any]) -> str:
    """A fingerprint in 16 characters, for the state of every weight program."""
    # Sorted, so that the order in which a plan lists its axes does not count.
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_state(state: Any, ours: dict[str, Any], steps: int) -> int:
    """The step of a Scheduler's saved state, if it is one of the schedule with the fingerprint `ours`.

    Raises SchedulerError.
    """
    # 1. A state of something else: the optimizer's and the model's are often saved beside this one.
    if not isinstance(state, Mapping) or not {"step", "rates", "fingerprint"} <= set(
        state
    ):
        keys = (
            ", ".join(map(str, list(state)[:3]))
            if isinstance(state, Mapping)
            else f"a {type(state).__name__}"
        )
        told = keys or "nothing"
        raise SchedulerError(
            f"this is no state of a Scheduler: it holds {told}; save scheduler.state_dict()"
        )

    # 2. Theirs goes through JSON as ours did, or tuples and lists would make equal plans differ.
    theirs = _plain(state["fingerprint"])
    if ours != theirs:
        odd = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        told = "; ".join(
            f"{key}: saved {theirs.get(key)!r}, here {ours.get(key)!r}" for key in odd
        )
        raise SchedulerError(f"the saved schedule is another one: {told}")

    # 3. The fingerprint does not cover the step. True counts as an int in Python.
    step = state["step"]
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= steps:
        raise SchedulerError(
            f"the saved schedule is at step {step!r} of {steps}; its state is damaged"
        )
    return step


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON; other objects as their text, without the address that is new in every process."""
    return dict(json.loads(ADDRESS.sub("", json.dumps(value, default=repr))))
