"""What a rule is, and the arguments of a node by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from sparsify_fx.coupling.tracks import Tracks, Value

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
