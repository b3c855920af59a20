"""Where optimizers keep state: in themselves, in the optimizers that they wrap, and under which keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """The state that one holder has for one parameter.

    Attributes:
        holder: the optimizer (or wrapper) whose state it is.
        group: the holder's parameter group with the parameter.
        state: the state itself, by key: the holder's own dict, not a copy.
    """

    holder: Any
    group: Mapping[str, Any]
    state: Any


def is_optimizer(value: object) -> bool:
    """Whether `value` has what every optimizer has, be it a subclass of torch's or not."""
    if isinstance(value, (nn.Module, Tensor, type)):
        return False
    return all(hasattr(value, name) for name in ("param_groups", "state", "step"))


def chain(optimizer: Any) -> list[Any]:
    """The optimizer and every one that it wraps, outermost first."""
    found: list[Any] = []
    waiting = deque([optimizer])
    while waiting:
        holder = waiting.popleft()
        if any(holder is known for known in found):
            continue
        found.append(holder)
        for value in getattr(holder, "__dict__", {}).values():
            inner = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
            waiting.extend(each for each in inner if is_optimizer(each))
    return found


def holders(optimizer: Any) -> list[Any]:
    """Those of the chain with a state of their own: some wrappers only hand on that of the inner optimizer."""
    found = chain(optimizer)
    return [h for i, h in enumerate(found) if all(h.state is not later.state for later in found[i + 1 :])]


def parameters_of(optimizer: Any) -> list[nn.Parameter]:
    """All parameters in the order of the groups, which is the order of torch's state dicts."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def places(optimizers: Sequence[Any], parameter: nn.Parameter) -> Iterator[Place]:
    """Every state of `parameter` that is not empty, outermost holder first."""
    for optimizer in optimizers:
        for holder in holders(optimizer):
            group = group_of(holder, parameter)
            if group is None:
                continue
            for state in states(holder, parameter, group):
                yield Place(holder, group, state)


def group_of(holder: Any, parameter: nn.Parameter) -> Mapping[str, Any] | None:
    """The group that has `parameter`, or None."""
    for group in holder.param_groups:
        if any(parameter is each for each in group["params"]):
            found: Mapping[str, Any] = group
            return found
    return None


def slots(holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where `holder` keeps something for the parameter, as (container, key): under itself, under its name, or in a
    table by parameter, which is itself an entry of the state.
    """
    # `get`, not `[]`: the state is a defaultdict, and an empty entry would end the laziness of some optimizers.
    found: dict[str, tuple[Any, Any]] = {"": (holder.state, parameter)} if holder.state.get(parameter) else {}
    named = {key: table for key, table in holder.state.items() if isinstance(key, str)}
    name = name_of(holder, parameter, group) if named else None
    if name is not None and named.get(name):
        found["name"] = (holder.state, name)
    for key, table in named.items():
        if isinstance(table, dict) and parameter in table:
            found[f"table {key}"] = (table, parameter)
    return found


def states(holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]) -> Iterator[Any]:
    """What is in the slots; a bare tensor in a table comes under the table's key."""
    for slot, (container, key) in slots(holder, parameter, group).items():
        value = container[key]
        yield {slot.removeprefix("table "): value} if isinstance(value, Tensor) else value


def name_of(holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]) -> str | None:
    """The name that the optimizer itself has for a parameter; None if it was not built with names."""
    names = group.get("param_names")
    if names is not None and len(names) == len(group["params"]):
        return next(str(name) for name, each in zip(names, group["params"], strict=True) if each is parameter)
    for table in getattr(holder, "__dict__", {}).values():
        if isinstance(table, dict) and isinstance(table.get(parameter), str):
            return str(table[parameter])
        if isinstance(table, dict) and (key := next((k for k, v in table.items() if v is parameter), None)) is not None:
            return str(key)
    return None


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in a state, also inside lists, queues, dicts and helper objects; list positions are all alike."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from walk(inner, (*path, key))
    elif isinstance(value, (list, tuple, deque)):
        for inner in value:
            yield from walk(inner, (*path, "*"))
    elif is_helper(value):
        yield from walk(vars(value), path)


def is_helper(value: object) -> bool:
    """Whether `value` is an object of the optimizer's own kind that holds part of the state, as preconditioners do."""
    known = (type, nn.Module, torch.Generator, torch.dtype, torch.device)
    return hasattr(value, "__dict__") and not isinstance(value, known) and not callable(value)
