"""Channels of pooling, reductions, padding and resizing over the other axes.

All keep the channels apart, so ids pass through. A constant survives where the operator gives back a value that all
entries have; where zeros from a border or a sum come in, only a zero does.
"""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_tools.view import (
    GraphView,
    attribute,
    input_of,
    set_attribute,
    set_input,
)
from sparsify_fx.passes.onnx_graph.channels.constants import Constants
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind, Values, nothing_to_slice
from sparsify_fx.passes.onnx_graph.channels.removal import Removal
from sparsify_fx.passes.onnx_graph.channels.spaces import Ids, Spaces, Track


def _track_pool(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """The output has the channels of the input."""
    data = spaces.tracks.get(node.input[0])
    # Pooling has its channels on axis 1, always. A second output (indices of MaxPool)
    # counts entries over all channels, and would change.
    if data is None or data.axis != 1 or sum(bool(name) for name in node.output) != 1:
        return False
    spaces.put(node.output[0], 1, data.rank, data.ids)
    return True


def _pool_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """The constant itself, or only zero where the average counts zeros from the border."""
    values = found.of(node.input[0])
    if attribute(node, "ceil_mode", 0):  # a window may lie outside altogether
        return [np.full_like(values, np.nan)]
    # MaxPool never takes its border, and AveragePool counts it only when asked to.
    padded = any(attribute(node, "pads", ())) or attribute(
        node, "auto_pad", "NOTSET"
    ) not in ("NOTSET", "VALID")
    counts_zeros = (
        node.op_type == "AveragePool"
        and attribute(node, "count_include_pad", 0)
        and padded
    )
    return [np.where(values == 0, 0.0, np.nan) if counts_zeros else values]


def _axes(
    node: onnx.NodeProto, view: GraphView, index: int, rank: int
) -> list[int] | None:
    """The axes of a reduction, squeeze or pad, none of them negative; None when they are not constant."""
    # An attribute at first, an input since opset 13 (ReduceSum) or 18. No axes at all
    # means all of them, which includes the channels.
    given = attribute(node, "axes")
    if given is None:
        constant = view.constant(input_of(node, index))
        given = None if constant is None else constant.reshape(-1).tolist()
    return None if not given else [int(axis) % rank for axis in given]


def _track_reduce(node: onnx.NodeProto, spaces: Spaces) -> bool:
    data = spaces.tracks.get(node.input[0])
    axes = None if data is None else _axes(node, spaces.view, 1, data.rank)
    if data is None or axes is None or data.axis in axes:
        return False
    if attribute(node, "keepdims", 1):
        spaces.put(node.output[0], data.axis, data.rank, data.ids)
    else:
        # Axes that vanish before the channels move them to the front.
        before = sum(axis < data.axis for axis in axes)
        spaces.put(node.output[0], data.axis - before, data.rank - len(axes), data.ids)
    return True


def _reduce_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """Means and extremes of a constant are that constant; sums and norms of zeros are zero."""
    values = found.of(node.input[0])
    # A sum depends on how many entries there are, which may be open.
    same = node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin")
    return [values if same else np.where(values == 0, 0.0, np.nan)]


def _track_pad(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Padding along the channels, as in the shortcuts of small ResNets, adds channels that equal the pad value."""
    data = spaces.tracks.get(node.input[0])
    pads = None if data is None else _pads(node, spaces.view, data)
    if data is None or pads is None or _pad_value(node, spaces.view) is None:
        return False
    before, after = (int(number) for number in pads[:, data.axis])
    # Negative pads cut channels off; reflected ones would be copies of others.
    if min(before, after) < 0 or (
        before + after and attribute(node, "mode", "constant") != "constant"
    ):
        return False
    if input_of(node, 3) and before + after == 0 and pads.shape[1] != data.rank:
        return False
    # Added channels are new ones, constant, and may go by themselves.
    ids = np.concatenate([spaces.fresh(before), data.ids, spaces.fresh(after)])
    spaces.put(node.output[0], data.axis, data.rank, ids)
    return True


def _pads(node: onnx.NodeProto, view: GraphView, track: Track) -> Ids | None:
    """[2, rank]: entries added before and after along each axis."""
    given = (
        view.constant(input_of(node, 1))
        if len(node.input) > 1
        else attribute(node, "pads")
    )
    if given is None:
        return None
    # All befores, then all afters: [2, axes].
    pairs = np.asarray(given, np.int64).reshape(2, -1)
    axes = list(range(track.rank))
    if input_of(node, 3):
        constant = view.constant(node.input[3])
        if constant is None:
            return None
        axes = [int(axis) % track.rank for axis in constant.reshape(-1)]
    # A file that contradicts itself is not understood.
    if len(axes) != pairs.shape[1]:
        return None
    full = np.zeros((2, track.rank), np.int64)
    full[:, axes] = pairs
    return full


def _pad_value(node: onnx.NodeProto, view: GraphView) -> float | None:
    """What a constant Pad writes; 0 when nothing is given, None when it is not known before the run."""
    if len(node.input) < 2:
        return float(attribute(node, "value", 0.0))
    if not input_of(node, 2):
        return 0.0
    constant = view.constant(node.input[2])
    return (
        None
        if constant is None or constant.size != 1
        else float(constant.reshape(-1)[0])
    )


def _pad_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """A channel stays constant when the border has its value, or repeats the inside."""
    track, value = found.spaces.tracks[node.input[0]], _pad_value(node, found.view)
    pads = _pads(node, found.view, track)
    assert pads is not None
    assert value is not None
    before, after = (int(number) for number in pads[:, track.axis])
    values = found.of(node.input[0])
    # Entries that the border adds inside a channel must equal the channel's constant;
    # negative pads add none, and reflected ones repeat it.
    others = np.delete(pads, track.axis, axis=1)
    if attribute(node, "mode", "constant") == "constant" and (others > 0).any():
        values = np.where(values == value, values, np.nan)
    return [np.concatenate([np.full(before, value), values, np.full(after, value)])]


def _slice_pad(node: onnx.NodeProto, removal: Removal) -> None:
    """Pad by as many channels as are left of the added ones."""
    track = removal.spaces.tracks[node.input[0]]
    pads = _pads(node, removal.view, track)
    assert pads is not None
    before, kept = int(pads[0, track.axis]), removal.kept(node.output[0])
    # Of the added channels at each side, those that stay; the ones between belong to the input.
    pads[:, track.axis] = (
        int(kept[:before].sum()),
        int(kept[before + track.size :].sum()),
    )
    if len(node.input) < 2:
        set_attribute(node, "pads", pads.reshape(-1).tolist())
        return
    # Written out for all axes, with the axes beside it where they were given.
    node.input[1] = removal.add(node.input[1], pads.reshape(-1))
    if input_of(node, 3):
        set_input(node, 3, removal.add(node.input[3], np.arange(track.rank)))


def _track_resize(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Resizing by constant factors, not along the channels."""
    data = spaces.tracks.get(node.input[0])
    # Scales moved from input 1 to 2 when regions of interest came in (opset 11).
    index = 1 if node.op_type == "Upsample" or spaces.view.opset < 11 else 2
    scales = spaces.view.constant(input_of(node, index))
    if (
        data is None
        or scales is None
        or input_of(node, 3)
        or scales.size != data.rank
        or attribute(node, "axes")
    ):
        return False
    # Cropping fills with a value of its own what lies outside.
    crops = (
        attribute(node, "coordinate_transformation_mode", "half_pixel")
        == "tf_crop_and_resize"
    )
    if crops or scales.reshape(-1)[data.axis] != 1:
        return False
    spaces.put(node.output[0], data.axis, data.rank, data.ids)
    return True


def _resize_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """Nearest and linear interpolation of a constant give that constant."""
    values = found.of(node.input[0])
    # Cubic interpolation is trusted with zeros alone: what its weights add up to at a
    # border depends on its options.
    smooth = attribute(node, "mode", "nearest") in ("nearest", "linear")
    return [values if smooth else np.where(values == 0, 0.0, np.nan)]


POOLING = {
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
        Kind(_track_pool, _pool_constants, nothing_to_slice),
    ),
    **dict.fromkeys(
        (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceSum",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
        ),
        Kind(_track_reduce, _reduce_constants, nothing_to_slice),
    ),
    "Pad": Kind(_track_pad, _pad_constants, _slice_pad),
    **dict.fromkeys(
        ("Resize", "Upsample"), Kind(_track_resize, _resize_constants, nothing_to_slice)
    ),
}
