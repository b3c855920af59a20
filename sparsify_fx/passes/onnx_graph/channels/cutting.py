"""Channels of operators that join values and cut them: Concat, Split, Slice.

Ids travel with their channels: a concatenation of [a b] and [c] has the ids [a b c], and a split gives each piece its
part of the row. Nothing has to be joined, so what a piece loses, its source loses, and no other piece. Along any other
axis all parts have all channels.
"""

from __future__ import annotations

import math

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
from sparsify_fx.passes.onnx_graph.channels.spaces import Spaces, Track


def _track_concat(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Along the channels: theirs one after the other. Along another axis: the same channels for all."""
    tracks = [spaces.tracks.get(name) for name in node.input]
    # A part without tracks has channels of which nothing is known: where would they be in the row?
    known = [track for track in tracks if track is not None]
    if (
        len(known) < len(tracks)
        or len({(track.axis, track.rank) for track in known}) != 1
    ):
        return False
    first = known[0]
    if attribute(node, "axis", 1) % first.rank == first.axis:
        ids = np.concatenate([track.ids for track in known])
    else:
        # Stacked along another axis: entry c of every part is channel c of the result.
        ids = first.ids
        for other in known[1:]:
            spaces.join(ids, other.ids)
    spaces.put(node.output[0], first.axis, first.rank, ids)
    return True


def _concat_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    values = [found.of(name) for name in node.input]
    track = found.spaces.tracks[node.output[0]]
    if attribute(node, "axis", 1) % track.rank == track.axis:
        return [np.concatenate(values)]
    # Constant where all parts are, with one value; NaN, which is not equal to itself, is neither.
    same = np.all([value == values[0] for value in values], axis=0)
    return [np.where(same, values[0], np.nan)]


def _pieces(node: onnx.NodeProto, view: GraphView, size: int) -> list[int] | None:
    """The sizes that Split cuts an axis of `size` into."""
    # 1. The sizes as an attribute (before opset 13).
    given, count = attribute(node, "split"), len(node.output)
    # 2. Or as an input, which must be known before the run.
    if input_of(node, 1):
        constant = view.constant(node.input[1])
        given = None if constant is None else constant.reshape(-1).tolist()
        if given is None:
            return None
    # 3. Or none: equal pieces, of which the last one takes what is left (`num_outputs`, opset 18).
    if given is None:
        share = math.ceil(size / count)
        given = [share] * (count - 1) + [size - share * (count - 1)]
    return (
        [int(number) for number in given]
        if sum(given) == size and min(given) > 0
        else None
    )


def _track_split(node: onnx.NodeProto, spaces: Spaces) -> bool:
    data = spaces.tracks.get(node.input[0])
    # A piece that nobody names still takes its share; without a name it has no track,
    # and the sizes could not be counted.
    if data is None or not all(node.output):
        return False
    if attribute(node, "axis", 0) % data.rank != data.axis:
        parts = [data.ids] * len(node.output)
    else:
        pieces = _pieces(node, spaces.view, data.size)
        if pieces is None or len(pieces) != len(node.output):
            return False
        parts = np.split(data.ids, np.cumsum(pieces)[:-1])
    for name, ids in zip(node.output, parts, strict=True):
        spaces.put(name, data.axis, data.rank, ids)
    return True


def _split_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    track, values = found.spaces.tracks[node.input[0]], found.of(node.input[0])
    if attribute(node, "axis", 0) % track.rank != track.axis:
        return [values] * len(node.output)
    sizes = [found.spaces.tracks[name].size for name in node.output]
    return list(np.split(values, np.cumsum(sizes)[:-1]))


def _slice_split(node: onnx.NodeProto, removal: Removal) -> None:
    track = removal.spaces.tracks[node.input[0]]
    if attribute(node, "axis", 0) % track.rank != track.axis:
        return
    sizes = [int(removal.kept(name).sum()) for name in node.output]
    # Uneven pieces need their sizes spelled out; `num_outputs` would contradict them.
    if removal.view.opset < 13:
        set_attribute(node, "split", sizes)
    else:
        set_attribute(node, "num_outputs", None)
        set_input(
            node,
            1,
            removal.add(
                input_of(node, 1) or f"{node.output[0]}_split",
                np.array(sizes, np.int64),
            ),
        )


def _bounds(
    node: onnx.NodeProto, view: GraphView, track: Track
) -> tuple[int, int, int] | None:
    """(place in the list of axes, start, end) where a Slice cuts the channels, (-1, 0, size) where it does not."""
    # Starts, ends, axes, steps. Without steps all are 1, without axes they are the first ones.
    given = [view.constant(input_of(node, index)) for index in range(1, 5)]
    starts, ends, axes, steps = (
        None if value is None else value.reshape(-1).tolist() for value in given
    )
    if (
        starts is None
        or ends is None
        or any(input_of(node, i) and given[i - 1] is None for i in (3, 4))
    ):
        return None
    axes = (
        list(range(len(starts)))
        if axes is None
        else [axis % track.rank for axis in axes]
    )
    # Cut along other axes: every channel passes.
    if track.axis not in axes:
        return -1, 0, track.size
    place = axes.index(track.axis)
    # Backwards, or every other channel: removal would have to count along that pattern.
    if steps is not None and steps[place] != 1:
        return None
    # Negative and overlong bounds (exporters write 2^63 - 1 for "to the end") as Python
    # has them. An empty cut has no channels to follow.
    start, end, _ = slice(starts[place], ends[place]).indices(track.size)
    return (place, start, end) if start < end else None


def _track_slice(node: onnx.NodeProto, spaces: Spaces) -> bool:
    data = spaces.tracks.get(node.input[0])
    bounds = (
        None
        if data is None or spaces.view.opset < 10
        else _bounds(node, spaces.view, data)
    )
    if data is None or bounds is None:
        return False
    spaces.put(node.output[0], data.axis, data.rank, data.ids[bounds[1] : bounds[2]])
    return True


def _slice_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    bounds = _bounds(node, found.view, found.spaces.tracks[node.input[0]])
    assert bounds is not None
    return [found.of(node.input[0])[bounds[1] : bounds[2]]]


def _slice_slice(node: onnx.NodeProto, removal: Removal) -> None:
    bounds = _bounds(node, removal.view, removal.spaces.tracks[node.input[0]])
    assert bounds is not None
    place, start, end = bounds
    kept = removal.kept(node.input[0])
    if place < 0:
        return
    # A bound becomes the number of kept channels before it.
    for index, bound in ((1, start), (2, end)):
        values = np.array(removal.view.constant(node.input[index]))
        values.reshape(-1)[place] = int(kept[:bound].sum())
        node.input[index] = removal.add(node.input[index], values)


CUTTING = {
    "Concat": Kind(_track_concat, _concat_constants, nothing_to_slice),
    "Split": Kind(_track_split, _split_constants, _slice_split),
    "Slice": Kind(_track_slice, _slice_constants, _slice_slice),
}
