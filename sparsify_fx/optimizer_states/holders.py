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
        outer: the optimizer that the training calls; the holder, or what wraps it.
        holder: the optimizer (or wrapper) whose state it is.
        group: the holder's parameter group with the parameter.
        state: the state itself, by key: the holder's own dict, not a copy.
    """

    outer: Any
    holder: Any
    group: Mapping[str, Any]
    state: Any


def is_optimizer(value: object) -> bool:
    """Whether `value` has what every optimizer has, be it a subclass of torch's or not."""
    # Modules may happen to have these attributes; classes have them before anything is built.
    if isinstance(value, (nn.Module, Tensor, type)):
        return False
    return all(hasattr(value, name) for name in ("param_groups", "state", "step"))


def wrapped(optimizer: Any) -> list[Any]:
    """The optimizers that one holds in its attributes."""
    found: list[Any] = []
    for value in getattr(optimizer, "__dict__", {}).values():
        # Wrappers hold one optimizer, a list of them, or a dict by name.
        inner = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, (list, tuple))
            else [value]
        )
        found += [each for each in inner if is_optimizer(each)]
    return found


def holders(optimizer: Any) -> list[Any]:
    """The optimizer and every one that it wraps, outermost first."""
    found: list[Any] = []
    waiting = deque([optimizer])
    while waiting:
        holder = waiting.popleft()
        # By identity, which also ends circles of optimizers that refer to each other.
        if all(holder is not known for known in found):
            found.append(holder)
            waiting.extend(wrapped(holder))
    return found


def own_state(holder: Any) -> Any:
    """The holder's state by parameter; nothing where a wrapper only hands on that of the inner one."""
    return (
        {}
        if any(inner.state is holder.state for inner in wrapped(holder))
        else holder.state
    )


def parameters_of(optimizer: Any) -> list[nn.Parameter]:
    """All parameters in the order of the groups, which is the order of torch's state dicts."""
    found: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        found += group["params"]
    return found


def places(optimizers: Sequence[Any], parameter: nn.Parameter) -> Iterator[Place]:
    """Every state of `parameter` that is not empty, outermost holder first."""
    for optimizer in optimizers:
        for holder in holders(optimizer):
            group = group_of(holder, parameter)
            if group is None:
                continue
            for state in states(holder, parameter, group):
                yield Place(optimizer, holder, group, state)


def group_of(holder: Any, parameter: nn.Parameter) -> Mapping[str, Any] | None:
    """The group that has `parameter`, or None."""
    for group in holder.param_groups:
        # `in` would compare tensors elementwise.
        if any(parameter is each for each in group["params"]):
            found: Mapping[str, Any] = group
            return found
    return None


def slots(
    holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Where `holder` keeps something for the parameter, as (container, key).

    "" is the usual place, "name" the same under the parameter's name; "table x" is a table by parameter that is itself
    the entry x of the state, "attribute x" one in an attribute of the holder.
    """
    state = own_state(holder)
    # `get`, not `[]`: the state is a defaultdict, and an empty entry would end the laziness of some optimizers.
    found: dict[str, tuple[Any, Any]] = (
        {"": (state, parameter)} if state.get(parameter) else {}
    )
    # Some optimizers key their state by names, or keep tables by parameter in it under a word.
    named = {key: table for key, table in state.items() if isinstance(key, str)}
    name = name_of(holder, parameter, group) if named else None
    if name is not None and named.get(name):
        found["name"] = (state, name)
    # The slots' names go into records: they must be the same in another process, where ids are not.
    tables = {f"table {key}": table for key, table in named.items()}
    tables |= {f"attribute {key}": table for key, table in attributes(holder).items()}
    for slot, table in tables.items():
        key = key_in(table, parameter)
        if key is not None and isinstance(table[key], (dict, Tensor)):
            found[slot] = (table, key)
    return found


def attributes(holder: Any) -> dict[str, Any]:
    """The dicts among the attributes that are not the state itself."""
    found = getattr(holder, "__dict__", {}).items()
    return {
        key: value
        for key, value in found
        if isinstance(value, dict) and value is not holder.state
    }


def key_in(table: Any, parameter: nn.Parameter) -> Any:
    """The key of a parameter in a table by parameters, or by their ids; None if it is not there.

    Only keys of one kind are compared: a tensor equals its id in the hash, and then asks for the truth of a tensor.
    """
    if not isinstance(table, dict):
        return None
    kinds = {type(key) for key in table}
    if int in kinds and kinds <= {int}:
        return id(parameter) if id(parameter) in table else None
    if any(issubclass(kind, Tensor) for kind in kinds) and int not in kinds:
        return parameter if parameter in table else None
    return None


def states(
    holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]
) -> Iterator[Any]:
    """What is in the slots; a bare tensor comes under the last word of its slot."""
    for slot, (container, key) in slots(holder, parameter, group).items():
        value = container[key]
        yield {slot.partition(" ")[2]: value} if isinstance(value, Tensor) else value


def name_of(
    holder: Any, parameter: nn.Parameter, group: Mapping[str, Any]
) -> str | None:
    """The name that the optimizer itself has for a parameter; None if it was not built with names."""
    names = group.get("param_names")
    # 1. torch's own names, of optimizers built with `named_parameters`.
    if names is not None and len(names) == len(group["params"]):
        return next(
            str(name)
            for name, each in zip(names, group["params"], strict=True)
            if each is parameter
        )
    # 2. Tables of the optimizer's own, from parameter to name or the other way round.
    for table in attributes(holder).values():
        key = key_in(table, parameter)
        if key is not None and isinstance(table[key], str):
            return str(table[key])
        name = next(
            (
                key
                for key, value in table.items()
                if value is parameter and isinstance(key, str)
            ),
            None,
        )
        if name is not None:
            return str(name)
    return None


def names_in(holder: Any) -> set[str | None]:
    """The names of all parameters as the optimizer itself has them."""
    found = set()
    for group in holder.param_groups:
        found |= {name_of(holder, each, group) for each in group["params"]}
    return found


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in a state, also inside lists, queues, dicts and helper objects; list positions are all alike."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from walk(inner, (*path, key))
    elif isinstance(value, (list, tuple, deque)):
        for inner in value:
            # Positions are alike: a history of gradients is one kind of state, however long it is by now.
            yield from walk(inner, (*path, "*"))
    elif is_helper(value):
        yield from walk(vars(value), path)


def is_helper(value: object) -> bool:
    """Whether `value` is an object of the optimizer's own kind that holds part of the state, as preconditioners do."""
    known = (type, nn.Module, torch.Generator, torch.dtype, torch.device)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, known)
        and not callable(value)
    )
