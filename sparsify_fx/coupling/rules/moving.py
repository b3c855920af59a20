"""Operators that move entries, cut tensors and put them together: they are run on the ids themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from sparsify_fx.coupling.rules.base import Rule, arguments, keep_ids, shape_of
from sparsify_fx.coupling.tracks import Resized, Tracks, Value, compressed

NAMES = (
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "swapaxes", "unsqueeze",
    "unsqueeze_", "squeeze", "squeeze_", "expand", "expand_as", "select", "slice", "narrow", "split",
    "split_with_sizes", "chunk", "unbind", "tensor_split", "cat", "concat", "stack", "repeat", "repeat_interleave",
    "tile", "flip", "roll", "index", "index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "_unsafe_view", "view_as", "reshape_as", "diagonal", "broadcast_to",
)  # fmt: skip
# A view of ids that are stored once would fail where a reshape copies them.
_INSTEAD: dict[str, Callable[..., Any]] = {
    "view": torch.ops.aten.reshape.default,
    "_unsafe_view": torch.ops.aten.reshape.default,
    "view_as": torch.ops.aten.reshape_as.default,
}
_RESIZING = (
    "view", "reshape", "unflatten", "expand", "split", "split_with_sizes", "repeat", "slice", "narrow",
)  # fmt: skip


def _move(node: fx.Node, tracks: Tracks) -> Value | list[Value] | None:
    """Run the operator on the ids of every entry."""
    name = str(node.target).split(".")[1]
    try:
        args = fx.map_arg(node.args, lambda arg: _operand(arg, node, tracks))
        kwargs = fx.map_arg(node.kwargs, lambda arg: _operand(arg, node, tracks))
    except KeyError:
        return None  # an index that depends on the input
    run: Any = _INSTEAD.get(name, node.target)
    found = run(*args, **kwargs)
    if not isinstance(found, Tensor):
        pieces = _pieces([compressed(part) for part in found], tracks)
        for piece in pieces:
            _note(node, name, piece, tracks)
        return pieces
    result = compressed(found)
    _note(node, name, result, tracks)
    return result


def _note(node: fx.Node, name: str, result: Value, tracks: Tracks) -> None:
    """That the sizes of a result may be written in the code."""
    first = node.args[0]
    if name in _RESIZING and isinstance(first, fx.Node):
        before = tracks.value(first)
        tracks.resized.append(Resized(node, before, result, tracks.prefix))


def _pieces(pieces: list[Value], tracks: Tracks) -> list[Value]:
    """Equal pieces stay equal: the code that cuts knows how many there are, and not how large they are."""
    first = pieces[0]
    if any(piece.shape != first.shape for piece in pieces):
        return pieces
    for piece in pieces[1:]:
        tracks.join(piece.ids, first.ids)
    return pieces


def _operand(arg: fx.Node, node: fx.Node, tracks: Tracks) -> Any:
    """The ids of what is moved; the true values of what says where to."""
    name = str(node.target).split(".")[1]
    if name in ("index", "index_select") and arg is not node.args[0]:
        return tracks.constants[arg.name]
    if not isinstance(arg.meta.get("val"), Tensor):
        raise KeyError(arg.name)
    return tracks.value(arg).full()


def _pad(node: fx.Node, tracks: Tracks) -> Value | None:
    """Along other axes than those of the channels nothing changes; new channels are constants with ids of their own."""
    kept = keep_ids(node, tracks)
    given = arguments(node)
    if kept is not None:
        return kept
    if given.get("mode", "constant") != "constant":
        return None
    data = tracks.value(given["self"])
    padded = torch.nn.functional.pad(data.full(), given["pad"], value=-1)
    # Constants along the channels go where what they are added to goes. One id for each slice.
    for axis in data.varying:
        new = tracks.fresh(padded.shape[axis])
        shape = [1] * padded.ndim
        shape[axis] = -1
        padded = torch.where(padded < 0, new.reshape(shape), padded)
    result = compressed(padded)
    tracks.resized.append(Resized(node, data, result, tracks.prefix))
    return result


def getitem(node: fx.Node, tracks: Tracks) -> Value | None:
    """One of several results."""
    source, index = node.args[0], int(str(node.args[1]))
    assert isinstance(source, fx.Node)
    found = tracks.values.get(source.name)
    return found[index] if isinstance(found, list) else None


def _made(node: fx.Node, tracks: Tracks) -> Value:
    """A new tensor of constants, whatever it takes its type from."""
    return compressed(torch.zeros(1, dtype=torch.int64).expand(shape_of(node)))


MOVING: dict[str, Rule] = {
    **dict.fromkeys(NAMES, _move),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), _made),
    # They take their sizes from what they are like.
    **dict.fromkeys(
        (
            "zeros_like",
            "ones_like",
            "full_like",
            "empty_like",
            "rand_like",
            "randn_like",
        ),
        keep_ids,
    ),
}
