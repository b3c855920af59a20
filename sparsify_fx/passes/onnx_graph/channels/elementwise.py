"""Channels of operators that work on each entry by itself.

    unary    y = f(x)            the ids of x; a constant channel k becomes f(k)
    binary   y = x + z, x * z    the ids of x and z joined; constants among the operands are sliced along
    norm     y = a x + b         the ids of x; four vectors are sliced along

Constants go through the operator itself, but for the norm: run in onnxruntime on the few numbers, so that no formula of
f is written down here and the bits are those of the graph.
"""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_tools.evaluate import evaluate
from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of
from sparsify_fx.passes.onnx_graph.channels.constants import Constants, unknown
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind, Values, nothing_to_slice
from sparsify_fx.passes.onnx_graph.channels.removal import Removal
from sparsify_fx.passes.onnx_graph.channels.spaces import Array, Spaces, Track

UNARY = (
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish",
    "Tanh", "Gelu", "Erf", "Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal",
    "Sin", "Cos", "Sign", "Floor", "Ceil", "Round", "Identity", "Dropout", "Clip",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min")


def _track_unary(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """The output has the channels of the input; all other inputs must be single constants."""
    # Limits of Clip, the ratio of Dropout: a single number means the same for every channel.
    data = spaces.tracks.get(node.input[0])
    rest = [name for name in node.input[1:] if name]
    if data is None or sum(bool(name) for name in node.output) != 1:
        return False
    if any(
        (value := spaces.view.constant(name)) is None or value.size != 1
        for name in rest
    ):
        return False
    # A third input is `training_mode`: then entries are dropped at random.
    if node.op_type == "Dropout" and (rest[1:] or spaces.view.opset < 7):
        return False
    spaces.put(node.output[0], data.axis, data.rank, data.ids)
    return True


def _unary_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """The operator itself, run on the constants."""
    values = found.of(node.input[0])
    # A NaN would be a number to the operator, and Clip might answer it with one.
    known = ~np.isnan(values)
    if not known.any():
        return [values]
    # Spared a session, which costs more than all the rest here.
    if node.op_type in ("Identity", "Dropout"):
        return [values]
    operands = {
        name: value
        for name in node.input[1:]
        if name and (value := found.view.constant(name)) is not None
    }
    # In float32, as the graph computes; the result is widened again.
    single = values[known].astype(np.float32)
    answer = evaluate(node, found.view.model, {**operands, node.input[0]: single})
    # onnxruntime refused, or the operator is not elementwise after all: nothing is
    # known, which only keeps channels.
    if answer is None or answer[0].shape != single.shape:
        return [unknown(values.size)]
    result = unknown(values.size)
    result[known] = answer[0]
    return [result]


def _track_binary(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """Two values with the same channels are tied; constants may differ by channel."""
    if len(node.input) != 2 or spaces.view.opset < 7:
        return False
    left, right = (spaces.tracks.get(name) for name in node.input)
    # 1. Two tracked values.
    if left is not None and right is not None:
        return _tie(node, left, right, spaces)

    # 2. A tracked value and a constant of its channels, or of one number for all. PRelu
    # slopes come second; the other way round the channels would be those of the slopes.
    data, other = (left, node.input[1]) if left is not None else (right, node.input[0])
    constant = _single(spaces.view, other)
    if data is None or constant is None or (node.op_type == "PRelu" and data is right):
        return False
    # A constant with more axes would make the result deeper, and move the channels.
    if constant.ndim > data.rank or _size_along(constant, data) not in (1, data.size):
        return False
    spaces.put(node.output[0], data.axis, data.rank, data.ids)
    return True


def _tie(node: onnx.NodeProto, left: Track, right: Track, spaces: Spaces) -> bool:
    """Join the channels of two operands; False where they do not lie on the same axis."""
    # Broadcasting aligns the last axes, so of values of different ranks axis 1 is not axis 1.
    if (left.axis, left.rank) != (right.axis, right.rank) or node.op_type == "PRelu":
        return False
    # 1. Channel by channel: a sum loses a channel when both operands do.
    if left.size == right.size:
        spaces.join(left.ids, right.ids)
    elif 1 not in (left.size, right.size):
        return False
    else:
        # One channel broadcast over all: it must stay, and the others do not depend on each other.
        spaces.pin((left if left.size == 1 else right).ids)
    larger = left if left.size >= right.size else right
    spaces.put(node.output[0], larger.axis, larger.rank, larger.ids)
    return True


def _binary_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """Constant where both are, and where a product has a zero."""
    track = found.spaces.tracks[node.output[0]]
    left, right = (_operand(name, track, found) for name in node.input)
    known = ~(np.isnan(left) | np.isnan(right))
    result = unknown(track.size)
    if known.any():
        pair = {
            "left": left[known].astype(np.float32),
            "right": right[known].astype(np.float32),
        }
        # Names of their own: vectors of constants stand in for the operands, whose
        # names may be one and the same (x * x).
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = list(pair)
        answer = evaluate(copy, found.view.model, pair)
        if answer is not None:
            result[known] = answer[0]
    # A gate that is closed for a channel makes it zero, whatever the other operand; NaN
    # * 0 does not count, as activations are taken to be finite.
    if node.op_type == "Mul":
        result[(left == 0) | (right == 0)] = 0.0
    return [result]


def _operand(name: str, track: Track, found: Constants) -> Values:
    """[channels] of a tracked value or of a constant that is the same along all other axes."""
    if name in found.spaces.tracks:
        return np.broadcast_to(found.of(name), (track.size,))
    constant = found.view.constant(name)
    assert constant is not None
    # Counted from the last axis, where broadcasting aligns.
    back = track.rank - track.axis
    if constant.ndim >= back:
        # [channels, all else]; a channel is constant when its row has one value.
        rows = np.moveaxis(constant, constant.ndim - back, 0).reshape(
            constant.shape[constant.ndim - back], -1
        )
    else:
        rows = constant.reshape(1, -1)
    if rows.size == 0:
        return unknown(track.size)
    low, high = rows.min(axis=1), rows.max(axis=1)
    return np.broadcast_to(
        np.where(low == high, low, np.nan).astype(np.float64), (track.size,)
    )


def _slice_constants(node: onnx.NodeProto, removal: Removal) -> None:
    """Slice a constant that differs by channel."""
    track = removal.spaces.tracks[node.output[0]]
    for index, name in enumerate(node.input):
        constant = (
            None if name in removal.spaces.tracks else removal.view.constant(name)
        )
        if (
            constant is not None
            and _size_along(constant, track) == track.size
            and track.size > 1
        ):
            # Where the constant has the channels, counted from its own front.
            axis = constant.ndim - (track.rank - track.axis)
            node.input[index] = removal.sliced(name, axis, removal.kept(node.output[0]))


def _size_along(constant: Array, track: Track) -> int:
    """The size of a constant along the channel axis of a value that it is broadcast with."""
    back = track.rank - track.axis
    return int(constant.shape[constant.ndim - back]) if constant.ndim >= back else 1


def _single(view: GraphView, name: str) -> Array | None:
    """The constant of this name where it is float32 and not empty, else None."""
    value = view.constant(name)
    return (
        value
        if value is not None and value.dtype == np.float32 and value.size
        else None
    )


def _track_norm(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """A batch norm in evaluation, with constant statistics."""
    data = spaces.tracks.get(node.input[0])
    vectors = [_single(spaces.view, input_of(node, index)) for index in range(1, 5)]
    if (
        data is None
        or data.axis != 1
        or any(v is None or v.shape != (data.size,) for v in vectors)
    ):
        return False
    if (
        attribute(node, "training_mode", 0)
        or sum(bool(name) for name in node.output) != 1
        or spaces.view.opset < 9
    ):
        return False
    spaces.put(node.output[0], 1, data.rank, data.ids)
    return True


def _norm_constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """γ (k − mean) / sqrt(var + ε) + β; β alone where γ is zero."""
    vectors = [found.view.constant(name) for name in node.input[1:5]]
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in vectors)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    values = found.of(node.input[0])
    # γ = 0 makes a constant of any input, also of an unknown one, whose NaN must not spread.
    return [np.where(scale == 0, beta, (values - mean) * scale + beta)]


def _slice_norm(node: onnx.NodeProto, removal: Removal) -> None:
    kept = removal.kept(node.output[0])
    for index in range(1, 5):
        node.input[index] = removal.sliced(node.input[index], 0, kept)


ELEMENTWISE = {
    **dict.fromkeys(UNARY, Kind(_track_unary, _unary_constants, nothing_to_slice)),
    **dict.fromkeys(BINARY, Kind(_track_binary, _binary_constants, _slice_constants)),
    "BatchNormalization": Kind(_track_norm, _norm_constants, _slice_norm),
}
