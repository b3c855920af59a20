"""Fresh state for entries that were pruned or regrown, or for whole parameters that were settled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.optimizer_states.fresh import ask, fresh_values, full_answer, is_copy
from sparsify_fx.optimizer_states.holders import (
    Path,
    Place,
    holders,
    parameters_of,
    places,
)
from sparsify_fx.optimizer_states.layouts import (
    entry_tensors,
    name_once,
    shared_tensors,
    write_entries,
)
from sparsify_fx.sharding import part, shard


@torch.no_grad()
def clear_entries(
    optimizers: Sequence[Any], parameter: nn.Parameter, entries: Tensor
) -> None:
    """Give `entries` the state of a new parameter: momentum 0, Rprop's step size, copies of the present values, ...

    Counters (state without an axis, and what groups keep) stay: they belong to all entries.

    Args:
        optimizers: those of the training; wrappers are looked through.
        parameter: one of theirs, already with its new values.
        entries: bool, of its shape.

    Raises SchedulerError for a quantized layout that is not known, before anything changes.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adagrad([weight], initial_accumulator_value=0.5)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> clear_entries([optimizer], weight, torch.tensor([True, False]))
    >>> optimizer.state[weight]["sum"]
    tensor([0.5000, 1.5000])
    """
    # 1. What no entry can be cleared of goes as a whole.
    restart_histories(optimizers, parameter)
    # 2. Every layout is looked at before the first tensor is written: an unknown one raises here.
    work = [
        (place, entry_tensors(place, parameter))
        for place in places(optimizers, parameter)
    ]
    # 3. Fresh values of each place: two holders of one parameter may start it differently.
    for place, tensors in work:
        values = fresh_values(place, parameter, list(tensors))
        for path, found in tensors.items():
            for tensor in found:
                write_entries(
                    place, tensor, path, entries.to(tensor.device), values[path]
                )
        name_once(place, parameter)


@torch.no_grad()
def settled(optimizers: Sequence[Any], parameter: nn.Parameter) -> None:
    """All of a parameter's state becomes fresh, but for its counters: it goes on where its neighbors are.

    Raises SchedulerError as `clear_entries`.
    """
    every = torch.ones_like(part(parameter, parameter), dtype=torch.bool)
    clear_entries(optimizers, parameter, shard(every, parameter))
    for place in places(optimizers, parameter):
        shared = shared_tensors(place, parameter)
        full = full_answer(place, parameter) if shared else {}
        for path, found in shared.items():
            for tensor in found:
                # Where the shapes differ, nothing fresh is known that would fit.
                if path in full and full[path].shape == tensor.shape:
                    tensor.copy_(full[path])


@contextmanager
def following(
    optimizers: Sequence[Any], parameters: Iterable[nn.Parameter]
) -> Iterator[None]:
    """Around writes into parameters: the copies of them that optimizers keep get what was written; momentum stays.

    Schedule-free and Lookahead would else pull the weights back to what they were.
    """
    before = {
        parameter: parameter.detach().clone()
        for parameter in parameters
        # Only parameters with copies are worth remembering: others cost nothing here.
        if copies(optimizers, parameter)
    }
    yield
    for parameter, old in before.items():
        with torch.no_grad():
            # Only where something was written: elsewhere the copy is an average that must stay.
            changed = part(parameter, parameter) != part(old, old)
            write_copies(optimizers, parameter, shard(changed, parameter))


def copies(
    optimizers: Sequence[Any], parameter: nn.Parameter
) -> list[tuple[Place, Path, Tensor]]:
    """Every tensor in which an optimizer keeps a copy of the parameter."""
    found: list[tuple[Place, Path, Tensor]] = []
    for place in places(optimizers, parameter):
        for path, tensors in entry_tensors(place, parameter).items():
            if is_copy(ask(place, parameter), path):
                found += [(place, path, tensor) for tensor in tensors]
    return found


def write_copies(
    optimizers: Sequence[Any],
    parameter: nn.Parameter,
    where: Tensor,
    holder: Any = None,
) -> None:
    """Put the parameter's values at `where` (bool) into every copy of it; only those of `holder`, if given."""
    for place, path, tensor in copies(optimizers, parameter):
        if holder is None or place.holder is holder:
            write_entries(
                place, tensor, path, where.to(tensor.device), parameter.detach()
            )


def restart_histories(optimizers: Sequence[Any], parameter: nn.Parameter) -> None:
    """L-BFGS keeps one history for all parameters together; after a change of any it starts again."""
    for optimizer in optimizers:
        for holder in holders(optimizer):
            if any(
                # Its directions and curvatures were measured along steps that a pruned weight does not take any more.
                "old_dirs" in state
                for state in holder.state.values()
                if isinstance(state, dict)
            ) and any(parameter is each for each in parameters_of(holder)):
                holder.state.clear()
                # It remembers how many numbers its parameters hold, which vectors of living entries change.
                if hasattr(holder, "_numel_cache"):
                    holder._numel_cache = None
