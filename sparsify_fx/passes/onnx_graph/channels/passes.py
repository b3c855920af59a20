"""dead-channels and unread-channels: channels that are constant, and channels that nothing reads."""

from __future__ import annotations

import onnx

from sparsify_fx.onnx_tools.shapes import infer_shapes
from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.channels.constants import Constants, find_constants
from sparsify_fx.passes.onnx_graph.channels.cutting import CUTTING
from sparsify_fx.passes.onnx_graph.channels.elementwise import ELEMENTWISE
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind
from sparsify_fx.passes.onnx_graph.channels.layers import LAYERS
from sparsify_fx.passes.onnx_graph.channels.layout import LAYOUT
from sparsify_fx.passes.onnx_graph.channels.liveness import channels_that_stay
from sparsify_fx.passes.onnx_graph.channels.pooling import POOLING
from sparsify_fx.passes.onnx_graph.channels.removal import Removal
from sparsify_fx.passes.onnx_graph.channels.spaces import Spaces

KINDS: dict[str, Kind] = {
    **LAYERS,
    **ELEMENTWISE,
    **POOLING,
    **CUTTING,
    **LAYOUT,
}
"""Operators that the channel passes understand; all others keep the channels of their inputs."""

MULTIPLE = 4
"""Convolutions read this many channels, or a multiple: for others onnxruntime's CPU kernels take twice as long.

Measured with onnxruntime 1.31 and AVX-512: 3x3 on 14x14, 32 channels 141 µs, 31: 327 µs, 29: 272 µs, 28: 140 µs. Up to
16 channels any number does (AVX2: 8).
"""


def track_channels(model: onnx.ModelProto) -> Spaces:
    """Follow the channels of every layer through the graph.

    Needs topological order: a node's inputs are tracked before it. Channels that reach a graph output, a subgraph or an
    operator outside `KINDS` (layer, group and instance norms, softmax, attention, quantized and custom operators) are
    pinned.
    """
    spaces = Spaces(GraphView(model), infer_shapes(model))
    for node in spaces.view.nodes:
        # Not understood: what it reads stays whole, and what it makes has no tracks, so
        # that layers after it start anew.
        kind = KINDS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if kind is None or not kind.track(node, spaces):
            for name in node.input:
                spaces.pin_value(name)
    # Callers and subgraphs see all channels.
    for name in spaces.view.fixed:
        spaces.pin_value(name)
    return spaces


def remove_dead_channels(model: onnx.ModelProto, multiple: int = MULTIPLE) -> bool:
    """Remove channels that are constant, and move what they added into their readers' biases.

    A channel is constant when all weights that lead to it are zero, or meet constants. It is followed through
    activations, pooling, batch norms, sums, products, concatenations and reshapes.

    It goes when every layer that reads it can do without:
        1. the layer's weights there are zero; or
        2. the constant is zero; or
        3. no padding is involved, so that W k is the same at every place and moves into the bias.

    It goes only together with
        1. the same channel of all operands of a sum or product;
        2. its whole group, in a grouped convolution;
        3. the same channel of every layer that shares the weight.

    It stays when it reaches an output, a subgraph or an operator outside `KINDS`, as the last one of a value, and to
    fill up what a convolution reads to a multiple of `multiple` (see `channels_that_stay`). Activations are taken to be
    finite: zero times anything is zero.
    """
    return _repeat(model, True, multiple)


def remove_unread_channels(model: onnx.ModelProto, multiple: int = MULTIPLE) -> bool:
    """Remove channels that all their readers multiply by zero, and what only those were computed from.

    1. A channel that no layer reads with a weight other than zero goes, constant or not.
    2. So does one that is read for such channels alone.

    What goes together and what stays is as in `remove_dead_channels`. No bias changes, as nothing was added.
    """
    return _repeat(model, False, multiple)


def _repeat(model: onnx.ModelProto, folding: bool, multiple: int) -> bool:
    """Remove until nothing goes: a grouped convolution with one group left is a dense one, which allows more."""
    changed = False
    while _remove(track_channels(model), folding, multiple):
        changed = True
    return changed


def _remove(spaces: Spaces, folding: bool, multiple: int) -> bool:
    """Decide and slice once; False when all channels stay."""
    # Without folding every channel counts as unknown, so that only zero weights let one
    # go. That pass runs first: it moves nothing into biases, so it adds none.
    constants = find_constants(spaces, KINDS) if folding else Constants(spaces)
    stays = channels_that_stay(spaces, constants if folding else None, multiple)
    if stays.all():
        return False
    Removal(spaces, constants, stays).apply(KINDS)
    return True


DEAD_CHANNELS = GraphPass("dead-channels", remove_dead_channels, exact=False)
UNREAD_CHANNELS = GraphPass("unread-channels", remove_unread_channels, exact=False)
