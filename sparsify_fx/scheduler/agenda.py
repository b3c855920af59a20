"""The agenda: every event that the plans of a model make, and the facts that the timeline tells beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sparsify_fx.actions import action_label
from sparsify_fx.criteria import criterion_name
from sparsify_fx.learning_rate import Curve, HandsOff, TorchSchedule
from sparsify_fx.parameterizations import ByLayer
from sparsify_fx.penalties import PenaltySum
from sparsify_fx.recipe import describe
from sparsify_fx.scheduler.events import RewindTo, RunAction, TakeSnapshot, UpdateMasks
from sparsify_fx.scheduler.snapshots import PARTS
from sparsify_fx.scheduler.storage import storage_told
from sparsify_fx.scheduler.timeline import Event
from sparsify_fx.scheduler.track import Track
from sparsify_fx.schedules import Budget


def agenda(tracks: Iterable[Track]) -> list[Event]:
    """The events of all parts, in the order in which they happen."""
    found: list[Event] = []
    for track in tracks:
        found += events_of(track)
    # The sort is stable, so those of one step keep their order: prune, rewind, act, snapshot.
    return sorted(found, key=lambda event: event.step)


def events_of(track: Track) -> Iterator[Event]:
    """Every event of the part, those at one step in the order in which they happen."""
    # 1. The masks first: criteria judge the trained weights, which a rewind overwrites.
    yield from _updates(track)
    # 2. Rewinds before actions, since an action such as rescaling works on the weights that the run starts with.
    yield from _rewinds(track)
    yield from _actions(track)
    # 3. Snapshots last: what is kept is the state in which the training goes on.
    yield from _snapshots(track)


def _updates(track: Track) -> Iterator[Event]:
    for draw, update in enumerate(track.updates, start=1):
        yield UpdateMasks(
            *_moment(track, update.run, update.epoch),
            *update.label(track.total),
            track.part.name,
            track=track,
            update=update,
            draw=draw,  # 0 is the pruning of `apply`, whose random numbers are others
        )


def _rewinds(track: Track) -> Iterator[Event]:
    back = track.plan.axes.rewind
    # The clock may have more runs, those of another part; there this part goes on where it is.
    for run in range(1, track.plan.axes.schedule.runs(track.plan.sparsity)):
        at = _moment(track, run, 0)
        for part in PARTS:
            point = getattr(back, part)
            if point is not None:
                yield RewindTo(
                    *at,
                    f"rewind {part}",
                    f"to {point}",
                    track.part.name,
                    track=track,
                    back=part,
                    point=point,
                )
        # Only told: the rate goes back through `Rates`, which counts from the start of each run.
        if back.learning_rate is not None:
            told = f"to {back.learning_rate}"
            yield Event(*at, "rewind learning rate", told, track.part.name)


def _actions(track: Track) -> Iterator[Event]:
    clock = track.clock
    for run in range(clock.runs):
        for action in track.plan.axes.actions:
            what, detail = action_label(action)
            for epoch in action.epochs(clock.length(run), run, clock.runs):
                yield RunAction(
                    *_moment(track, run, epoch),
                    what,
                    detail,
                    track.part.name,
                    track=track,
                    action=action,
                )


def _snapshots(track: Track) -> Iterator[Event]:
    for point, epoch in track.points.items():
        yield TakeSnapshot(
            *_moment(track, 0, epoch),
            "snapshot",
            f"at {point}",
            track.part.name,
            track=track,
            point=point,
        )


def _moment(track: Track, run: int, epoch: float) -> tuple[int, int, float]:
    """(step, run, epoch): the first fields of an event."""
    return track.clock.step_of(run, epoch), run, epoch


# ------------------------------------------------------------------ facts


def facts_of(track: Track) -> Iterator[Event]:
    """What is so from the start or happens by itself, for the timeline: the first mask, the penalty, the gates."""
    told = [*_first_mask(track), *(("collapse", note) for note in track.notes)]
    told += [*_penalty(track), *_parameterizations(track)]
    if track.plan.met is not None:
        told.append(("budget", track.plan.met.sentence()))
    storage = storage_told(list(track.part.programs.values()))
    if storage:
        told.append(("storage", storage))
    for what, detail in told:
        yield Event(0, 0, 0, what, detail, track.part.name)


def _first_mask(track: Track) -> Iterator[tuple[str, str]]:
    axes, total = track.plan.axes, track.total
    kept = axes.schedule.initial(Budget(total, track.plan.sparsity))
    if kept is None:
        yield "no mask", f"all {total} weights stay"
    elif kept < total:
        first = getattr(axes.schedule, "first_criterion", None) or axes.criterion
        chosen = f"{criterion_name(first)}, {_axis_name('allocation', axes.allocation)}"
        detail = f"{chosen}: keep {kept} of {total} weights, density {kept / total:.6g}"
        yield "mask at initialization", detail
    elif not track.updates:
        # A full mask is worth a line only where no later event tells what becomes of it.
        yield "mask at initialization", f"all {total} weights stay"


def _penalty(track: Track) -> Iterator[tuple[str, str]]:
    given = track.plan.axes.penalty
    parts = given.parts if isinstance(given, PenaltySum) else (given,)
    penalty = " + ".join(_axis_name("penalty", part) for part in parts)
    if penalty == "none":
        return
    adaptive = track.strengths.led
    how = "strength adapts" if adaptive else "constant strength"
    until = (
        f", until step {track.settles}"
        if adaptive and track.settles is not None
        else ""
    )
    yield "penalty", f"{penalty}, {how}{until}"


def _parameterizations(track: Track) -> Iterator[tuple[str, str]]:
    how = track.plan.axes.parameterization
    if isinstance(how, ByLayer):
        yield "parameterizations", str(how)
    stateful = [
        program.parameterization
        for program in track.part.programs.values()
        if program.state_tensors()
    ]
    if stateful:
        # A dict keeps each name once and the order of the layers, so that the line is the same in every process.
        names = dict.fromkeys(_axis_name("parameterization", each) for each in stateful)
        yield "refresh", f"{', '.join(names)}: state changes before every step"


def rate_fact(curve: Curve | TorchSchedule) -> Event:
    """What the timeline tells of the learning rate."""
    if isinstance(curve, HandsOff):
        told = "left to others (learning_rate=None)"
    elif isinstance(curve, Curve):
        told = repr(curve)
    else:
        # A function's repr holds its address, which is another one in every process.
        told = (
            f"torch scheduler of {getattr(curve, '__qualname__', type(curve).__name__)}"
        )
    return Event(0, 0, 0, "learning rate", told)


def _axis_name(axis: str, value: Any) -> str:
    described = describe(axis, value)
    return described["name"] if isinstance(described, dict) else str(described)
