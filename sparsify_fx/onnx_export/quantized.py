"""Zero points: which entry of a quantized weight means zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.constants import constants, scopes
from sparsify_fx.onnx_export.weights import all_nodes
from sparsify_fx.passes.onnx_graph.view import attribute, input_of

Array = NDArray[Any]
Read = Callable[[onnx.TensorProto], Array]

INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
"""The types of quantized weights that are packed."""

# Operators that read a quantized weight: (position of the weight, position of its zero point).
_READERS: dict[str, tuple[tuple[int, int], ...]] = {
    "DequantizeLinear": ((0, 2),),
    "ConvInteger": ((1, 3),),
    "MatMulInteger": ((0, 2), (1, 3)),
    "QLinearConv": ((3, 5),),
    "QLinearMatMul": ((0, 2), (3, 5)),
    "DynamicQuantizeMatMul": ((1, 3),),
    "MatMulIntegerToFloat": ((1, 5),),
    "QGemm": ((3, 5),),
    "QAttention": ((1, 7),),
    "DynamicQuantizeLSTM": ((1, 9), (2, 11)),
}


def zero_points(model: onnx.ModelProto, read: Read, decoded: Mapping[str, int] | None = None) -> dict[str, Array]:
    """For each quantized weight of the main graph its zero points, as an array that broadcasts to the weight.

    `decoded`: the ranks of weights that nodes rebuild. One that nodes read with different zero points, or with computed
    ones, is left out: its zeros are zeros.

    >>> weight, point = np.full((2, 2), 128, np.uint8), np.uint8(128)
    >>> tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for a, name in ((weight, "w"), (point, "z"))]
    >>> node = onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"])
    >>> model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], tensors))
    >>> zero_points(model, onnx.numpy_helper.to_array)["w"].tolist()
    [[128]]
    """
    places = scopes(model)
    stored = [each for each in constants(model) if isinstance(each.tensor, onnx.TensorProto)]
    tensors = {each.name: each.tensor for each in stored if places[each.scope].function is None}
    ranks = {name: len(tensor.dims) for name, tensor in tensors.items() if tensor.data_type in INTEGERS}
    ranks |= decoded or {}
    found: dict[str, list[Array | None]] = {}
    for node in all_nodes(model.graph.node):
        for place, zero in _READERS.get(node.op_type, ()):
            weight, point = input_of(node, place), input_of(node, zero)
            if weight in ranks and (not point or point in tensors):
                known = read(tensors[point]) if point else np.zeros((), np.int64)
                found.setdefault(weight, []).append(_as_wide(node, known, ranks[weight]))
            elif weight in ranks:
                found.setdefault(weight, []).append(None)
    return {name: points[0] for name, points in found.items() if points[0] is not None and _agree(points)}


def names_of_points(model: onnx.ModelProto) -> set[str]:
    """The values that are zero points of quantized weights: they stay readable, since they tell what zero is."""
    return {
        input_of(node, zero)
        for node in all_nodes(model.graph.node)
        for _, zero in _READERS.get(node.op_type, ())
    }  # fmt: skip


def _agree(points: Iterable[Array | None]) -> bool:
    first, *others = points
    return all(each is not None and np.array_equal(each, first) for each in others if first is not None)


def _as_wide(node: onnx.NodeProto, point: Array, rank: int) -> Array | None:
    """The zero points of a node's weight with `rank` axes, of which all but that of the channels have length 1."""
    if point.size == 1:
        return point.reshape((1,) * rank)
    if node.op_type == "DynamicQuantizeLSTM":
        # One for each direction, or one for each of its columns too.
        return point.reshape(len(point), 1, -1) if point.ndim in (1, 2) and rank == 3 else None
    if point.ndim != 1:
        return None  # a block of the weight each: zeros are zeros
    axis = _channel_axis(node)
    shape = [1] * rank
    if not -rank <= axis < rank:
        return None
    shape[axis] = point.size
    return point.reshape(shape)


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis along which a vector of zero points runs."""
    if node.op_type == "DequantizeLinear":
        return int(attribute(node, "axis", 1))
    if node.op_type in ("ConvInteger", "QLinearConv"):
        return 0
    return 0 if node.op_type == "QGemm" and attribute(node, "transB", 0) else -1
