"""Zero points: which entry of a quantized weight means zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_tools.bindings import Bindings, Place
from sparsify_fx.onnx_tools.constants import constants
from sparsify_fx.onnx_tools.view import attribute, input_of, is_standard
from sparsify_fx.onnx_tools.weights import all_nodes

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


def zero_points(
    model: onnx.ModelProto, read: Read, decoded: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """For each quantized weight of the main graph its zero points, as an array that broadcasts to the weight.

    As `zero_points_by_place`.

    >>> weight, point = np.full((2, 2), 128, np.uint8), np.uint8(128)
    >>> tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for a, name in ((weight, "w"), (point, "z"))]
    >>> node = onnx.helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"])
    >>> model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], tensors))
    >>> zero_points(model, onnx.numpy_helper.to_array)["w"].tolist()
    [[128]]
    """
    found = zero_points_by_place(model, read, decoded)
    return {name: point for (scope, name), point in found.items() if scope == 0}


def zero_points_by_place(
    model: onnx.ModelProto, read: Read, decoded: Mapping[str, int] | None = None
) -> dict[Place, Array]:
    """The zero points of the quantized weights of all scopes, by the scope's number and the weight's name in it.

    `decoded`: the ranks of weights of the main graph that nodes rebuild. A weight that nodes read with different zero
    points, or with computed ones, is left out: its zeros are zeros.
    """
    stored = [
        each for each in constants(model) if isinstance(each.tensor, onnx.TensorProto)
    ]
    tensors = {(each.scope, each.name): each.tensor for each in stored}
    ranks = {
        place: len(tensor.dims)
        for place, tensor in tensors.items()
        if tensor.data_type in INTEGERS
    }
    ranks |= {(0, name): rank for name, rank in (decoded or {}).items()}
    found: dict[Place, list[Array | None]] = {}
    for node, at, given, weight, point in _quantized_operands(model):
        if weight is None or weight not in ranks:
            continue
        # Operators take a missing zero point for 0.
        known: Array | None = np.zeros((), np.int64)
        if given:
            known = read(tensors[point]) if point in tensors else None
        # All readers are collected: only if they agree is there a value that means zero.
        found.setdefault(weight, []).append(
            None if known is None else _as_wide(node, at, known, ranks[weight])
        )
    return {
        place: points[0]
        for place, points in found.items()
        if points[0] is not None and _agree(points)
    }


def names_of_points(model: onnx.ModelProto) -> set[str]:
    """The values that are zero points of quantized weights: they stay readable, since they tell what zero is."""
    return {point[1] for *_, point in _quantized_operands(model) if point is not None}


def kept_inside(model: onnx.ModelProto) -> set[Place]:
    """Quantized weights of branches and loops' bodies, with scales and zero points, that must stay where they are.

    onnxruntime (1.32) loads no model in which a DequantizeLinear inside of a branch, before a matrix product, reads any
    of these from outside of it. Before convolutions it does.
    """
    bindings = Bindings(model)
    inside = [bindings.is_inside(number) for number in range(len(bindings.scopes))]
    found: set[Place] = set()
    for number, scope in enumerate(bindings.scopes):
        readers = _readers(scope.body) if inside[number] else {}
        for node in scope.body.node if inside[number] else ():
            if (
                is_standard(node, "DequantizeLinear")
                and not readers.get(node.output[0], {""}) <= _CONVOLUTIONS
            ):
                # The scale and the zero point too: the model fails to load as well when
                # only one of them lies outside.
                homes = (bindings.home(number, name) for name in node.input)
                found.update(
                    place for place in homes if place is not None and inside[place[0]]
                )
    return found


_CONVOLUTIONS = {"Conv", "ConvTranspose"}


def _readers(body: onnx.GraphProto | onnx.FunctionProto) -> dict[str, set[str]]:
    """The operators that read each value, in a scope and in the graphs inside it."""
    found: dict[str, set[str]] = {}
    for node in all_nodes(body.node):
        for name in node.input:
            found.setdefault(name, set()).add(node.op_type)
    return found


def _quantized_operands(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.NodeProto, int, bool, Place | None, Place | None]]:
    """Each node that reads a quantized weight, as which input, if with a zero point, and where both are defined."""
    bindings = Bindings(model)
    for number, scope in enumerate(bindings.scopes):
        for node in scope.body.node:
            for pair in _READERS.get(node.op_type, ()):
                given = bool(input_of(node, pair[1]))
                yield from (
                    (node, pair[0], given, weight, point)
                    for weight, point in bindings.read(number, node, pair)
                )


def _agree(points: Iterable[Array | None]) -> bool:
    first, *others = points
    return all(
        each is not None and np.array_equal(each, first)
        for each in others
        if first is not None
    )


def _as_wide(node: onnx.NodeProto, at: int, point: Array, rank: int) -> Array | None:
    """The zero points of input number `at`, a weight with `rank` axes; all but that of the channels have length 1."""
    # One for the whole weight, whatever its axis.
    if point.size == 1:
        return point.reshape((1,) * rank)
    if node.op_type == "DynamicQuantizeLSTM":
        # One for each direction, or one for each of its columns too.
        return (
            point.reshape(len(point), 1, -1)
            if point.ndim in (1, 2) and rank == 3
            else None
        )
    if point.ndim != 1:
        return None  # a block of the weight each: zeros are zeros
    # One for each channel, along an axis that depends on the operator.
    axis = _channel_axis(node, at)
    shape = [1] * rank
    if not -rank <= axis < rank:
        return None
    shape[axis] = point.size
    return point.reshape(shape)


def _channel_axis(node: onnx.NodeProto, at: int) -> int:
    """The axis along which a vector of zero points of input number `at` runs."""
    if node.op_type == "DequantizeLinear":
        return int(attribute(node, "axis", 1))
    if node.op_type in ("ConvInteger", "QLinearConv"):
        return 0
    # A matrix on the left has one for each row.
    if at == 0:
        return -2
    # Matrix products have their channels last, unless the right operand is stored
    # transposed.
    return 0 if node.op_type == "QGemm" and attribute(node, "transB", 0) else -1
