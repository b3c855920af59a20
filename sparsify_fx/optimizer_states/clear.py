"""Fresh state for entries that were pruned or regrown, or for whole parameters that were settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.optimizer_states.fresh import ask, fresh_values, full_answer, is_copy
from sparsify_fx.optimizer_states.holders import holders, parameters_of, places
from sparsify_fx.optimizer_states.layouts import entry_tensors, name_once, shared_tensors, write_entries


@torch.no_grad()
def clear_entries(optimizers: Sequence[Any], parameter: nn.Parameter, entries: Tensor) -> None:
    """Give `entries` the state of a new parameter: momentum 0, Rprop's step size, copies of the present values, ...

    Counters (state without an axis, and what groups keep) stay: they belong to all entries.

    Args:
        optimizers: those of the training; wrappers are looked through.
        parameter: one of theirs, already with its new values.
        entries: bool, of its shape.

    Raises SchedulerError for a quantised layout that is not known, before anything changes.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.Adagrad([weight], initial_accumulator_value=0.5)
    >>> weight.grad = torch.ones(2)
    >>> optimizer.step()
    >>> clear_entries([optimizer], weight, torch.tensor([True, False]))
    >>> optimizer.state[weight]["sum"]
    tensor([0.5000, 1.5000])
    """
    _restart_histories(optimizers, parameter)
    work = [(place, entry_tensors(place, parameter)) for place in places(optimizers, parameter)]
    for place, tensors in work:
        values = fresh_values(place, parameter, list(tensors))
        for path, found in tensors.items():
            for tensor in found:
                write_entries(place, tensor, path, entries.to(tensor.device), values[path])
        name_once(place, parameter)


@torch.no_grad()
def settled(optimizers: Sequence[Any], parameter: nn.Parameter) -> None:
    """All of a parameter's state becomes fresh, but for its counters: it goes on where its neighbors are.

    Raises SchedulerError as `clear_entries`.
    """
    clear_entries(optimizers, parameter, torch.ones_like(parameter, dtype=torch.bool))
    for place in places(optimizers, parameter):
        shared = shared_tensors(place, parameter)
        full = full_answer(place, parameter) if shared else {}
        for path, found in shared.items():
            for tensor in found:
                if path in full and full[path].shape == tensor.shape:
                    tensor.copy_(full[path])


@torch.no_grad()
def follow_writes(optimizers: Sequence[Any], parameter: nn.Parameter, entries: Tensor | None = None) -> None:
    """After a write into `parameter`: the copies of it that optimizers keep get its values, momentum stays.

    Schedule-free and Lookahead would else pull the weights back to what they were.

    Args:
        entries: where it was written (bool, of its shape); None is everywhere.
    """
    where = torch.ones_like(parameter, dtype=torch.bool) if entries is None else entries
    for place in places(optimizers, parameter):
        for path, found in entry_tensors(place, parameter).items():
            if is_copy(ask(place, parameter), path):
                for tensor in found:
                    write_entries(place, tensor, path, where.to(tensor.device), parameter.detach())


def _restart_histories(optimizers: Sequence[Any], parameter: nn.Parameter) -> None:
    """L-BFGS keeps one history for all parameters together; after a change of any it starts again."""
    for optimizer in optimizers:
        for holder in holders(optimizer):
            if any("old_dirs" in state for state in holder.state.values() if isinstance(state, dict)) and any(
                parameter is each for each in parameters_of(holder)
            ):
                holder.state.clear()
