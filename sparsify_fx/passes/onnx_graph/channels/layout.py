"""Channels of operators that reorder and reshape a value, or read its shape.

The ids stay, in their order; what changes is the axis on which they are, and for [N, C, H, W] to [N, C H W] how often
each occurs. A node is understood only where every target size is known to keep its meaning with fewer channels.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import attribute, input_of
from sparsify_fx.passes.onnx_graph.channels.constants import Constants
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind, Values, nothing_to_slice
from sparsify_fx.passes.onnx_graph.channels.removal import Removal
from sparsify_fx.passes.onnx_graph.channels.spaces import Spaces, Track


def _track_transpose(node: onnx.NodeProto, spaces: Spaces) -> bool:
    data = spaces.tracks.get(node.input[0])
    if data is None:
        return False
    # Without an order all axes are reversed.
    order = list(attribute(node, "perm", range(data.rank - 1, -1, -1)))
    spaces.put(node.output[0], order.index(data.axis), data.rank, data.ids)
    return True


def _track_squeeze(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Squeeze and Unsqueeze along named axes that are not the channels."""
    data = spaces.tracks.get(node.input[0])
    axes = attribute(node, "axes")
    # An attribute before opset 13, an input since. Without axes Squeeze drops all axes
    # of size 1: once a single channel is left, its axis would go as well.
    if (
        axes is None
        and (constant := spaces.view.constant(input_of(node, 1))) is not None
    ):
        axes = constant.reshape(-1).tolist()
    if data is None or not axes:
        return False
    if node.op_type == "Squeeze":
        # 1. Squeeze: the channels move to the front by as many axes as go before them.
        gone = {axis % data.rank for axis in axes}
        if data.axis in gone:
            return False
        spaces.put(
            node.output[0],
            data.axis - sum(a < data.axis for a in gone),
            data.rank - len(gone),
            data.ids,
        )
        return True

    # 2. Unsqueeze: axes count in the result, and the old ones fill its other places in order.
    rank = data.rank + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    spaces.put(node.output[0], old[data.axis], rank, data.ids)
    return True


def _same_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    return [found.of(node.input[0])]


def _track_reshape(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Follow channels through a Reshape or Flatten.

    1. [..., C] to [..., C]: the last axis stays what it is, whatever becomes of those before.
    2. [N, C, ...] to [N, C * ...]: each channel becomes as many columns as it has entries, which go together.
    3. [N, C, ...] to [N, C, ...]: axis 1 stays, the axes after it change among themselves.

    In all others (a channel shuffle, heads of an attention) channels are cut apart or mixed, and stay.
    """
    data = spaces.tracks.get(node.input[0])
    target = _target(node, spaces)
    if data is None or target is None:
        return False
    # Case 1.
    if (
        data.axis == data.rank - 1
        and target[-1] == data.size
        and _keeps_last(target, data)
    ):
        spaces.put(node.output[0], len(target) - 1, len(target), data.ids)
        return True

    # Cases 2 and 3 need the entries of a channel, and rows that stay: an entry of one
    # sample must not end up in another one when there are fewer channels.
    inner = _inner(data, spaces.shapes.get(node.input[0], ()))
    if data.axis != 1 or len(target) < 2 or inner is None:
        return False
    if not _keeps_rows(target, spaces.shapes.get(node.input[0], ()), data.size * inner):
        return False

    # Case 2. Removing a channel removes its whole run of columns, as all have its id.
    rest = target[2:]
    if len(target) == 2 and target[1] in (-1, data.size * inner):
        spaces.put(node.output[0], 1, 2, np.repeat(data.ids, inner))
        return True

    # Case 3. The axes after the channels hold the entries of one channel, spelled out
    # or with one -1. A 0 among them copies an axis by its place, which is not followed.
    if (
        target[1] != data.size
        or 0 in rest
        or (-1 not in rest and math.prod(rest) != inner)
    ):
        return False
    spaces.put(node.output[0], 1, len(target), data.ids)
    return True


def _target(node: onnx.NodeProto, spaces: Spaces) -> list[int] | None:
    """The shape that Reshape is given; for Flatten along axis 1 what amounts to it."""
    if node.op_type == "Flatten":
        return [0, -1] if attribute(node, "axis", 1) == 1 else None
    # With `allowzero` a 0 is an empty axis rather than a copy; such values have nothing to prune.
    constant = spaces.view.constant(input_of(node, 1))
    if constant is None or (attribute(node, "allowzero", 0) and (constant == 0).any()):
        return None
    target = [int(size) for size in constant.reshape(-1)]
    return target or None


def _inner(track: Track, shape: Shape) -> int | None:
    """Entries of a channel in one sample; None when they are not known."""
    # Open sizes (names) do not count as known: with another height a channel has other columns.
    sizes = [size for size in shape[2:] if isinstance(size, int)]
    return (
        math.prod(sizes)
        if len(shape) == track.rank and len(sizes) == track.rank - 2
        else None
    )


def _keeps_last(target: list[int], track: Track) -> bool:
    """Whether the other sizes of the target do not depend on the channels."""
    # A 0 copies an axis of the input; only those in front of the channels are the same afterwards.
    return all(size != 0 or axis < track.axis for axis, size in enumerate(target[:-1]))


def _keeps_rows(target: list[int], shape: Shape, entries: int) -> bool:
    """Whether the first axis stays what it is: copied, spelled out, or inferred from all others."""
    # Inferred from the others: right only if these hold exactly one sample.
    if target[0] == -1:
        return math.prod(target[1:]) == entries
    return target[0] == 0 or target[0] == shape[0]


def _reshape_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    values, size = found.of(node.input[0]), found.spaces.tracks[node.output[0]].size
    return [np.repeat(values, size // values.size)]


def _slice_reshape(node: onnx.NodeProto, removal: Removal) -> None:
    """Write the new number of channels, or of entries, into the target shape."""
    if node.op_type == "Flatten":
        return
    track = removal.spaces.tracks[node.output[0]]
    target = np.array(removal.view.constant(node.input[1]))
    # 0 is copied and -1 inferred from what is there, so both are right already.
    if target[track.axis] > 0:
        target[track.axis] = int(removal.kept(node.output[0]).sum())
        node.input[1] = removal.add(node.input[1], target)


def _track_shape(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Reading the sizes of other axes does no harm."""
    data = spaces.tracks.get(node.input[0])
    if data is None or spaces.view.opset < 15:
        return False
    start, end, _ = slice(attribute(node, "start", 0), attribute(node, "end")).indices(
        data.rank
    )
    # The number of channels itself may be computed with, and would be another one. False pins them.
    return not start <= data.axis < end


LAYOUT = {
    "Transpose": Kind(_track_transpose, _same_constants, nothing_to_slice),
    **dict.fromkeys(
        ("Squeeze", "Unsqueeze"),
        Kind(_track_squeeze, _same_constants, nothing_to_slice),
    ),
    **dict.fromkeys(
        ("Reshape", "Flatten"), Kind(_track_reshape, _reshape_constants, _slice_reshape)
    ),
    "Shape": Kind(_track_shape, _same_constants, nothing_to_slice),
}
