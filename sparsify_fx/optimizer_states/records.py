"""Snapshots of the optimizer state of some parameters, and how to go back to them, in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import SchedulerError
from sparsify_fx.optimizer_states.clear import copies, write_copies
from sparsify_fx.optimizer_states.counters import (
    put_counters,
    put_own_state,
    take_counters,
    take_own_state,
)
from sparsify_fx.optimizer_states.holders import (
    Place,
    group_of,
    holders,
    name_of,
    parameters_of,
    slots,
)
from sparsify_fx.optimizer_states.plain import from_plain, missing_objects, to_plain
from sparsify_fx.optimizer_states.twin import new_state
from sparsify_fx.sharding import matching, part, shard, sharded


@torch.no_grad()
def take_optimizer_state(
    optimizers: Sequence[Any], parameters: Collection[nn.Parameter]
) -> list[Any]:
    """Copies of the state of these parameters, as plain types and tensors only (loadable with `weights_only=True`).

    Counters that an optimizer keeps for a group (schedule-free's k) or for all there is (D-adaptation's d) come along
    if `parameters` has the whole group, or all there is.
    """
    return [
        [
            _take(optimizer, holder, frozenset(parameters))
            for holder in holders(optimizer)
        ]
        for optimizer in optimizers
    ]


@torch.no_grad()
def restore_optimizer_state(
    optimizers: Sequence[Any],
    parameters: Collection[nn.Parameter],
    recorded: Sequence[Any],
) -> None:
    """Bring the state of these parameters back to `recorded`, in place; learning rates stay what they are.

    Copies of a parameter (schedule-free's z, Lookahead's slow weights) go back only where the parameter itself has gone
    back before; elsewhere they start from its present value, or they would pull it to what it was then.

    Raises SchedulerError for a record of other optimizers; nothing has been changed then.
    """
    # All kinds are compared before anything is written.
    layers = [holders(optimizer) for optimizer in optimizers]
    kinds = [[type(holder).__name__ for holder in layer] for layer in layers]
    saved = [[record["kind"] for record in layer] for layer in recorded]
    if kinds != saved:
        raise SchedulerError(
            f"the recorded state is that of the optimizers {saved}, here are {kinds}; build the same"
        )
    for outer, layer, records in zip(optimizers, layers, recorded, strict=True):
        for holder, record in zip(layer, records, strict=True):
            _restore(outer, holder, frozenset(parameters), record)


def _take(
    outer: Any, holder: Any, parameters: frozenset[nn.Parameter]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": type(holder).__name__,
        "state": {},
        "at": {},
        "mode": _mode(holder),
    }
    for index, parameter, group in _numbered(holder, parameters):
        record["state"][index] = {
            slot: to_plain(container[key])
            for slot, (container, key) in slots(holder, parameter, group).items()
        }
        # The parameter's value too: whether a copy goes back depends on whether the parameter itself has.
        if any(place.holder is holder for place, _, _ in copies([outer], parameter)):
            record["at"][index] = parameter.detach().clone()
    return record | {
        "counters": take_counters(holder, parameters),
        "own": take_own_state(holder, parameters),
    }


def _restore(
    outer: Any,
    holder: Any,
    parameters: frozenset[nn.Parameter],
    record: Mapping[str, Any],
) -> None:
    mode = _mode(holder)
    for index, parameter, group in _numbered(holder, parameters):
        _restore_slots(
            Place(outer, holder, group, {}), parameter, record["state"].get(index, {})
        )
        # Where the parameter is not what it was then (a pruning came between), its copy follows the present value.
        if index in record["at"]:
            then = part(record["at"][index].to(parameter.device), parameter)
            moved = part(parameter, parameter) != then
            write_copies([outer], parameter, shard(moved, parameter), holder)
    put_counters(holder, record["counters"])
    put_own_state(holder, record["own"])
    # Schedule-free parameters are other points in training than in evaluation: recorded in one mode, restored in
    # another, they must be converted as the optimizer does it.
    if record["at"] and mode is not None and record["mode"] not in (None, mode):
        _convert(holder, record["mode"], mode)


def _restore_slots(
    place: Place, parameter: nn.Parameter, saved: Mapping[str, Any]
) -> None:
    holder, group = place.holder, place.group
    for slot, (container, key) in slots(holder, parameter, group).items():
        if slot not in saved:
            # The optimizer makes it anew at its next step, as it did after the recorded moment.
            del container[key]
    present = slots(holder, parameter, group)
    for slot, value in saved.items():
        container, key = present.get(slot) or _new_slot(holder, slot, parameter, group)
        current = container.get(key)
        # A state whose helper objects are gone (cleared, or before the first step) is made anew by a trial step.
        if missing_objects(value, current):
            current = new_state(place, nn.Parameter(parameter.detach().clone()))
        laid = _as_sharded(value, parameter)
        container[key] = from_plain(laid, current, parameter.device)


def _as_sharded(value: Any, parameter: Tensor) -> Any:
    """A recorded value with what has an entry for each of a sharded parameter's as that lies; else itself."""
    if not sharded(parameter):
        return value
    if isinstance(value, Tensor):
        alike = value.shape == parameter.shape
        return matching(value.to(parameter.device), parameter) if alike else value
    if isinstance(value, Mapping):
        return {key: _as_sharded(inner, parameter) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_as_sharded(inner, parameter) for inner in value)
    return value


def _new_slot(
    holder: Any, slot: str, parameter: nn.Parameter, group: Mapping[str, Any]
) -> tuple[Any, Any]:
    """(container, key) of a slot that is empty now."""
    kind, _, name = slot.partition(" ")
    if kind == "table":
        return holder.state.setdefault(name, {}), parameter
    if kind == "attribute":
        table = getattr(holder, name)
        return table, id(parameter) if any(
            isinstance(key, int) for key in table
        ) else parameter
    return holder.state, parameter if kind == "" else name_of(holder, parameter, group)


def _numbered(
    holder: Any, parameters: frozenset[nn.Parameter]
) -> list[tuple[int, nn.Parameter, Mapping[str, Any]]]:
    """(index over all groups, parameter, group) of those that are in `parameters`."""
    found = []
    # Numbers over all groups, as torch's state dicts have: objects and ids differ from process to process.
    for index, parameter in enumerate(parameters_of(holder)):
        group = group_of(holder, parameter)
        if group is not None and parameter in parameters:
            found.append((index, parameter, group))
    return found


def _mode(holder: Any) -> bool | None:
    """Whether a schedule-free optimizer is in training mode, in which the parameters are others than in evaluation."""
    modes = [
        group["train_mode"] for group in holder.param_groups if "train_mode" in group
    ]
    modes += [vars(holder)["train_mode"]] if "train_mode" in vars(holder) else []
    return bool(modes[0]) if modes else None


def _convert(holder: Any, recorded: bool, wanted: bool) -> None:
    """Bring parameters recorded in one mode into the mode that the training is in now."""
    # Set to the recorded mode first: `train()` and `eval()` convert only from the other one.
    for group in holder.param_groups:
        if "train_mode" in group:
            group["train_mode"] = recorded
    if "train_mode" in vars(holder):
        holder.train_mode = recorded
    (holder.train if wanted else holder.eval)()
