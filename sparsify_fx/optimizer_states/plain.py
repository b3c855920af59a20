"""State as plain types and tensors, and back into the objects that it came from."""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.optimizer_states.blocks import is_quantized
from sparsify_fx.optimizer_states.holders import is_helper

# What a record says instead of a value that it cannot or need not hold, such as a function.
KEPT = "sparsify_fx: kept as it is"
_BLOCKS, _FIELDS, _RANDOM = (
    "sparsify_fx: blocks",
    "sparsify_fx: fields",
    "sparsify_fx: random numbers",
)


def to_plain(value: Any) -> Any:
    """Copies of tensors, numbers, strings, None, lists, tuples and dicts of these; `KEPT` for anything else."""
    if isinstance(value, Tensor):
        # Tensor subclasses cannot be loaded with weights_only=True; their inner tensors can.
        if is_quantized(value):
            names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
            return {
                _BLOCKS: {name: getattr(value, name).detach().clone() for name in names}
            }
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return {_RANDOM: value.get_state()}
    if isinstance(value, random.Random):
        return {_RANDOM: to_plain(value.getstate())}
    # Functions and enums are options, not state: the object that is there has the same.
    if isinstance(value, enum.Enum) or callable(value):
        return KEPT
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(to_plain(inner) for inner in value)
    if isinstance(value, (list, deque)):
        return [to_plain(inner) for inner in value]
    return {_FIELDS: to_plain(vars(value))} if is_helper(value) else KEPT


def from_plain(recorded: Any, current: Any, device: torch.device) -> Any:
    """The recorded value; in the tensors and objects of `current` wherever they fit.

    Args:
        current: what is there now, or None.
        device: where tensors go that are made anew and have an axis.
    """
    if isinstance(recorded, Tensor):
        # In place: a captured CUDA graph, or a list of the optimizer's own, holds on to the tensor itself.
        if isinstance(current, Tensor) and (current.shape, current.dtype) == (
            recorded.shape,
            recorded.dtype,
        ):
            return current.copy_(recorded)
        return (
            # Counters without an axis stay where they are: torch's optimizers keep them on the CPU.
            recorded.detach().clone().to(device if recorded.dim() else recorded.device)
        )
    if isinstance(recorded, str) and recorded == KEPT:
        return current
    if isinstance(recorded, Mapping) and _BLOCKS in recorded:
        for name, tensor in recorded[_BLOCKS].items():
            getattr(current, name).copy_(tensor)
        return current
    if isinstance(recorded, Mapping) and _RANDOM in recorded:
        (
            # torch's and Python's generators call it differently.
            current.set_state
            if isinstance(current, torch.Generator)
            else current.setstate
        )(recorded[_RANDOM])
        return current
    if isinstance(recorded, Mapping) and _FIELDS in recorded:
        vars(current).update(from_plain(recorded[_FIELDS], vars(current), device))
        return current
    if isinstance(recorded, Mapping):
        known = current if isinstance(current, Mapping) else {}
        return {
            key: from_plain(inner, known.get(key), device)
            for key, inner in recorded.items()
        }
    if isinstance(recorded, (list, tuple)):
        return _sequence(recorded, current, device)
    return recorded


def _sequence(
    recorded: list[Any] | tuple[Any, ...], current: Any, device: torch.device
) -> Any:
    known = list(current) if isinstance(current, (list, tuple, deque)) else []
    # A history may be longer in the record than it is now.
    known += [None] * (len(recorded) - len(known))
    items = [
        from_plain(inner, now, device)
        for inner, now in zip(recorded, known, strict=False)
    ]
    # A record holds a queue as a list; its length limit is the optimizer's option.
    if isinstance(current, deque):
        return deque(items, maxlen=current.maxlen)
    return type(recorded)(items)


def missing_objects(recorded: Any, current: Any) -> bool:
    """Whether the record needs an object of the optimizer's own that is not there to be filled."""
    if isinstance(recorded, Mapping):
        # These are filled in place; they cannot be made from plain data.
        if recorded.keys() & {_BLOCKS, _FIELDS, _RANDOM}:
            return current is None
        known = current if isinstance(current, Mapping) else {}
        return any(
            missing_objects(inner, known.get(key)) for key, inner in recorded.items()
        )
    if isinstance(recorded, (list, tuple)):
        known_items = list(current) if isinstance(current, (list, tuple, deque)) else []
        known_items += [None] * (len(recorded) - len(known_items))
        return any(
            missing_objects(inner, now)
            for inner, now in zip(recorded, known_items, strict=False)
        )
    return False
