"""Refresh: temperatures and noise of the parameterizations, changed in place before every optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from sparsify_fx.parameterizations import Moment, Parameterization, Projecting
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.randomness import seed_of
from sparsify_fx.scheduler.clock import Clock
from sparsify_fx.schedules.updates import MaskUpdate


def refresh(
    model: nn.Module, clock: Clock, updates: Iterable[MaskUpdate], seed: int, step: int
) -> None:
    """Let every parameterization with a state change it for the step that follows `step` steps."""
    stateful = {
        name: program
        for name, program in programs(model).items()
        if program.state_tensors()
    }
    if not stateful:
        return
    progress = progress_at(clock, updates, step)
    for name, program in stateful.items():
        moment = Moment(progress, derived_seed(seed, step, name))
        program.refresh(moment)
    _project(stateful, progress)


def _project(found: Mapping[str, WeightProgram], progress: float) -> None:
    """Bring the factors of weights that share a budget back into it."""
    groups: dict[Parameterization, list[WeightProgram]] = {}
    for program in found.values():
        if isinstance(program.parameterization, Projecting):
            groups.setdefault(program.parameterization, []).append(program)
    for how, programs_ in groups.items():
        assert isinstance(how, Projecting)
        new = how.projected([program.tensors() for program in programs_], progress)
        for program, factors in zip(programs_, new, strict=False):
            for name, value in factors.items():
                program.put(name, value)


def progress_at(clock: Clock, updates: Iterable[MaskUpdate], step: int) -> float:
    """Share of the way through the run of `step`, up to the run's last mask update if one comes after its start."""
    run, since = clock.locate(step)
    # To the last update and not to the end: a gate that is still soft would be settled to another value.
    last = max(
        (
            clock.step_of(run, u.epoch) - clock.start(run)
            for u in updates
            if u.run == run
        ),
        default=0,
    )
    return min(1.0, since / (last or clock.length(run) * clock.steps_per_epoch))


def derived_seed(seed: int, step: int, name: str) -> int:
    """The seed of one weight at one step: it does not depend on where a training was resumed."""
    # 63 bits fit a signed integer, wherever the seed is put.
    return seed_of(f"{seed}/{step}/{name}") >> 1
