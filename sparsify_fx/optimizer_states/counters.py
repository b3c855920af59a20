"""What optimizers keep for many parameters at once: counters in groups, entries of their own, plain attributes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.optimizer_states.holders import (
    names_in,
    own_state,
    parameters_of,
    wrapped,
)
from sparsify_fx.optimizer_states.plain import from_plain, to_plain
from sparsify_fx.optimizer_states.twin import constructor_names

# What names a group, what schedulers of the learning rate write into it, and the mode that the caller sets.
_NAMES = {"params", "param_names", "name", "names"}
_RATES = {
    "lr",
    "initial_lr",
    "max_lr",
    "min_lr",
    "swa_lr",
    "lr_scale",
    "base_momentum",
    "max_momentum",
}
_NOT_COUNTERS = _NAMES | _RATES | {"train_mode"}
_CPU = torch.device("cpu")


def counters(holder: Any, group: Mapping[str, Any]) -> list[str]:
    """The keys of a group that are no options of the optimizer: its step, schedule-free's k, D-adaptation's d."""
    # Whatever a group holds beside its options is something that the optimizer counts.
    options = set(constructor_names(type(holder)))
    return [key for key in group if key not in options and key not in _NOT_COUNTERS]


def take_counters(
    holder: Any, parameters: frozenset[nn.Parameter]
) -> dict[int, dict[str, Any]]:
    """The counters of every group whose parameters are all in `parameters`, by the group's number."""
    return {
        number: {key: to_plain(group[key]) for key in counters(holder, group)}
        for number, group in enumerate(_own_groups(holder))
        # A counter that also belongs to other parameters must not go back with these.
        if parameters.issuperset(group["params"])
    }


def put_counters(holder: Any, recorded: Mapping[int, Mapping[str, Any]]) -> None:
    """The counters as recorded; one that was not there then is removed, so that the optimizer makes it again."""
    for number, group in enumerate(_own_groups(holder)):
        if number not in recorded:
            continue
        for key in counters(holder, group):
            # It did not exist at the recorded moment: the optimizer makes it at its next step, as it did then.
            if key not in recorded[number]:
                del group[key]
        for key, value in recorded[number].items():
            group[key] = from_plain(value, group.get(key), _CPU)


def take_own_state(
    holder: Any, parameters: frozenset[nn.Parameter]
) -> dict[str, Any] | None:
    """State under no parameter and plain numbers in attributes; None unless `parameters` has all of the holder's."""
    if not parameters.issuperset(parameters_of(holder)):
        return None
    entries = {
        key: to_plain(_without_parameters(holder.state[key]))
        for key in _own_keys(holder)
    }
    return {
        "entries": entries,
        "numbers": {name: to_plain(getattr(holder, name)) for name in _numbers(holder)},
    }


def put_own_state(holder: Any, recorded: Mapping[str, Any] | None) -> None:
    """As recorded by `take_own_state`."""
    if recorded is None:
        return
    for key in _own_keys(holder):
        if key not in recorded["entries"]:
            del holder.state[key]
    for key, value in recorded["entries"].items():
        current = holder.state.get(key)
        new = from_plain(value, current, _CPU)
        if isinstance(current, dict) and isinstance(new, dict):
            # What is kept for parameters is recorded by their slots, and is put back there.
            new |= {
                inner: kept
                for inner, kept in current.items()
                if isinstance(inner, Tensor)
            }
        holder.state[key] = new
    for name, value in recorded["numbers"].items():
        setattr(holder, name, from_plain(value, getattr(holder, name, None), _CPU))


def _own_groups(holder: Any) -> list[Mapping[str, Any]] | Any:
    """The groups, unless they are those of a wrapped optimizer, which are recorded there."""
    return (
        []
        # Many wrappers share the groups of the inner optimizer: recorded twice they would be restored twice.
        if any(inner.param_groups is holder.param_groups for inner in wrapped(holder))
        else holder.param_groups
    )


def _own_keys(holder: Any) -> list[Any]:
    keys = [key for key in own_state(holder) if not isinstance(key, Tensor)]
    if not keys:
        return []
    names = names_in(holder)
    return [key for key in keys if key not in names]


def _without_parameters(value: Any) -> Any:
    return (
        {key: inner for key, inner in value.items() if not isinstance(key, Tensor)}
        if isinstance(value, dict)
        else value
    )


def _numbers(holder: Any) -> list[str]:
    """Attributes that count something: plain numbers, tensors and sources of random numbers that are no options."""
    options = set(constructor_names(type(holder)))
    kinds = (bool, int, float, Tensor, type(None), torch.Generator, random.Random)
    return [
        name
        for name, value in vars(holder).items()
        if isinstance(value, kinds) and not isinstance(value, nn.Parameter)
        and not name.startswith("_") and name not in options and name != "train_mode"
    ]  # fmt: skip
