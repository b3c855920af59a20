"""Optimizers follow the entries of programs: their state moves wherever the entries of a parameter do.

Two things may happen to a parameter behind an optimizer's back. Its entries move (masks change, another mask is loaded,
the storage changes): the state of every optimizer that has made a step moves along at once. Or the optimizer is given a
state of other shape (`load_state_dict` of a training in the other storage): it is looked at again before its next step,
when the model has been loaded too, whatever was loaded first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparsify_fx.living.remembered import Remembered

if TYPE_CHECKING:
    from sparsify_fx.optimizer_states.moves import Moving

_PROGRAMS: WeakSet[Any] = WeakSet()
# Optimizers that have been looked at since there is the newest program and since their state was last loaded, with the
# number of their parameters then; those whose state follows, with the tables that held it; and those that will say when
# it is loaded.
_SEEN: Remembered[int] = Remembered()
_FOLLOWING: Remembered[list[Any]] = Remembered()
_TELLING: Remembered[bool] = Remembered()
_CHECKS: list[Callable[[Any, Sequence[Any]], None]] = []
_told: ContextVar[Sequence[Any] | None] = ContextVar("followed_by", default=None)
_watching = False


def note(program: nn.Module) -> None:
    """Have every optimizer looked at before its first step from now on, for the sake of this program."""
    global _watching
    _PROGRAMS.add(program)
    # An optimizer may get its parameters later than it makes its first step.
    _SEEN.forget()
    if not _watching:
        register_optimizer_step_pre_hook(_before_step)
        _watching = True


def before_first_steps(check: Callable[[Any, Sequence[Any]], None]) -> None:
    """Call `check(optimizer, programs)` before the first step of every optimizer, and after its state was loaded."""
    _CHECKS.append(check)


def look_at(optimizer: Any) -> None:
    """Look at an optimizer that is about to be used: does its state lie as the parameters do?"""
    programs = known_programs()
    for check in _CHECKS:
        check(optimizer, programs)
    _SEEN.put(optimizer, _size(optimizer))
    _FOLLOWING.put(optimizer, _tables(optimizer))
    # Late: that room is built on this one.
    from sparsify_fx.optimizer_states.holders import holders

    # Wrappers may be of torch's class and never have called its constructor, which makes the table of hooks.
    for holder in holders(optimizer):
        hooks = getattr(holder, "_optimizer_load_state_dict_post_hooks", None)
        if hooks is not None and not _TELLING.get(holder):
            holder.register_load_state_dict_post_hook(_loaded)
            _TELLING.put(holder, True)


def known_programs() -> list[Any]:
    """All weight programs of the process."""
    return list(_PROGRAMS)


def _size(optimizer: Any) -> int:
    """The number of parameters: it may be given more of them between its steps, as layers are unfrozen."""
    return sum(len(group["params"]) for group in optimizer.param_groups)


def _loaded(optimizer: Any) -> None:
    """Let nothing move a state that was loaded, and the one before it go."""
    # Late: that room is built on this one.
    from sparsify_fx.optimizer_states.holders import holders

    _SEEN.forget()
    for outer in _FOLLOWING.objects():
        if any(holder is optimizer for holder in holders(outer)):
            _FOLLOWING.forget(outer)


def _tables(optimizer: Any) -> list[Any]:
    # Late: that room is built on this one.
    from sparsify_fx.optimizer_states.holders import holders

    return [
        getattr(holder, "__dict__", {}).get("state") for holder in holders(optimizer)
    ]


def followers() -> list[Any]:
    """The optimizers whose state is still the one that was looked at; those without hooks tell by its table alone.

    One that was loaded since lies as the masks of its checkpoint do, which the model may be about to be given: it must
    not move when they come. To load a state makes a new table.
    """
    found = []
    for optimizer in _FOLLOWING.objects():
        then, now = _FOLLOWING.get(optimizer) or [], _tables(optimizer)
        if len(then) == len(now) and all(map(operator.is_, then, now)):
            found.append(optimizer)
    return found


@contextmanager
def followed_by(optimizers: Sequence[Any]) -> Iterator[None]:
    """Within this context these optimizers follow, be they wrappers or none of torch's, and all that made a step.

    With none at all nothing follows.
    """
    token = _told.set(optimizers)
    try:
        yield
    finally:
        _told.reset(token)


def movings(parameters: Sequence[nn.Parameter]) -> list[Moving]:
    """The state that has to move with these parameters; ask before they move."""
    # Late: that room is built on this one.
    from sparsify_fx.optimizer_states.moves import Moving

    told = _told.get()
    optimizers = list(told or ())
    if told is None or optimizers:
        # One that the Scheduler was not told of would train entries with the state of others.
        known = set(map(id, optimizers))
        optimizers += [each for each in followers() if id(each) not in known]
    return [Moving(optimizers, each) for each in parameters] if optimizers else []


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        _look_beside_graph(optimizer)
    elif _SEEN.get(optimizer) != _size(optimizer):
        look_at(optimizer)


def _look_beside_graph(optimizer: Optimizer) -> None:
    # The compiler does not look in here, and calls it in every step.
    if _SEEN.get(optimizer) != _size(optimizer):
        look_at(optimizer)


# What `torch.compiler.disable` does, without its import of the compiler, which takes longer than all of this package.
vars(_look_beside_graph)["_torchdynamo_disable"] = True
