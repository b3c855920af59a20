"""Whatever a model returns, as named tensors in a fixed order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree


def named_tensors(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """(name, tensor) for every tensor in `value`, depth first; numbers and None are left out.

    Dicts (and the output classes of transformers) give their keys as names, dataclasses their fields, tuples and
    lists `output_0`, `output_1`; nested ones are joined by `_`. Other types must be registered in torch's pytree.

    >>> import torch
    >>> [name for name, _ in named_tensors({"logits": torch.ones(1), "loss": None, "states": [torch.ones(1)]})]
    ['logits', 'states_0']
    """
    if isinstance(value, Tensor):
        return [(name or "output", value)]
    children = _children(value)
    if children is not None:
        found = []
        for key, child in children:
            found += named_tensors(child, _join(name, key))
        return found
    # A type that is registered with torch, as cache classes of transformers are, has
    # leaves without names of their own.
    leaves = _pytree.tree_leaves(value)
    return (
        [] if len(leaves) == 1 and leaves[0] is value else named_tensors(leaves, name)
    )


def _children(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """The parts of a container with their keys, or None for anything else."""
    if isinstance(value, Mapping):
        return iter(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (
            (field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
        )
    if isinstance(value, tuple | list):
        return iter(enumerate(value))
    return None


def _join(name: str, key: Any) -> str:
    """The name of a part of something: `states_0`; at the top `output_0` or the key itself."""
    return (
        f"{name}_{key}"
        if name
        else (f"output_{key}" if isinstance(key, int) else str(key))
    )


def flatten_outputs(model: nn.Module) -> None:
    """Make `model` return a flat tuple of tensors, by a forward hook, in place.

    A hook and not a wrapping module: that would put a prefix before every parameter's name.
    """

    def flatten(module: nn.Module, inputs: Any, output: Any) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in named_tensors(output))

    model.register_forward_hook(flatten)
