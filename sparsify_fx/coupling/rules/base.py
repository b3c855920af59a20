"""What a rule is, and the arguments of a node by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from sparsify_fx.coupling.tracks import Tracks, Value, staying

Rule = Callable[[fx.Node, Tracks], Value | list[Value] | None]
"""The ids of a node's result; None where the operator is not understood as it is used here."""


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments by the names of the operator's schema, defaults included."""
    given: dict[str, Any] = {}
    for index, item in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if index < len(node.args):
            given[item.name] = node.args[index]
        elif item.name in node.kwargs:
            given[item.name] = node.kwargs[item.name]
        elif item.has_default_value():
            given[item.name] = item.default_value
    return given


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that a node makes."""
    return tuple(node.meta["val"].shape)


def keep_ids(node: fx.Node, tracks: Tracks) -> Value | None:
    """The first input's ids, where they fit the result: they may differ only along axes whose size stays."""
    data, shape = tracks.value(node.args[0]), shape_of(node)
    if len(shape) != len(data.shape):
        return None
    if any(shape[axis] != data.shape[axis] for axis in data.varying):
        return None
    return Value(data.ids, shape)


ONE_TOKEN = "attention over one token (give an example with more)"


def over_one(node: fx.Node, tracks: Tracks) -> Value:
    """Attention over one token, whose weight is 1 whatever the heads are: no wrong cut would show; all stay."""
    values = [tracks.value(arg) for arg in node.all_input_nodes]
    for value in values:
        tracks.pin(value)
    if any(value.varying for value in values):
        tracks.unknown[ONE_TOKEN] = tracks.unknown.get(ONE_TOKEN, 0) + 1
    return staying(shape_of(node))


_TABLE = 1 << 20


def tables(node: fx.Node, tracks: Tracks) -> None:
    """Note the value of a node that makes whole numbers of constants alone: a table of places, for the rules."""
    made = node.meta.get("val")
    inputs = node.all_input_nodes
    if not isinstance(made, Tensor) or made.is_floating_point() or made.is_complex():
        return
    if made.numel() > _TABLE or any(arg.name not in tracks.constants for arg in inputs):
        return
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return
    # A copy, since some operators write into what they are given.
    args, kwargs = fx.map_arg(
        (node.args, node.kwargs), lambda arg: tracks.constants[arg.name].clone()
    )
    tracks.constants[node.name] = node.target(*args, **kwargs)  # type: ignore[operator]
