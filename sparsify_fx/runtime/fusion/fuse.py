"""What follows a layer and can be computed with it: an addition of equal shape, then an activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, attribute

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Tail:
    """The nodes that a sparse kernel fuses with its layer, and what they do."""

    nodes: tuple[NodeProto, ...]
    output: str
    bias: str = ""
    residual: str = ""
    activation: str = ""


def tail_of(
    layer: NodeProto,
    view: GraphView,
    shapes: Mapping[str, Shape],
    constants: Arrays,
    taken: set[int],
) -> Tail:
    """The longest tail after `layer` whose nodes are not yet `taken` (by `id`): bias, residual, activation."""
    nodes: list[NodeProto] = []
    output, bias, residual, activation = layer.output[0], "", "", ""

    def follower(kind: str = "") -> NodeProto | None:
        node = view.only_reader(output)
        fits = (
            node is not None
            and not node.domain
            and id(node) not in taken
            and kind in ("", node.op_type)
        )
        return node if fits else None

    # 1. A bias. Conv and Gemm have one of their own; after a MatMul it is an Add of a
    # vector.
    if layer.op_type == "MatMul" and (add := follower("Add")) is not None:
        other, width = _other(add, output), constants[layer.input[1]].shape[1]
        if other in constants and constants[other].shape == (width,):
            bias, output, nodes = other, add.output[0], [add]

    # 2. A residual of the same shape: the kernel adds it in its epilogue, and broadcasts
    # nothing.
    if (add := follower("Add")) is not None:
        other = _other(add, output)
        if (
            other
            and other not in constants
            and _same_shape(shapes.get(other), shapes.get(output))
        ):
            residual, output, nodes = other, add.output[0], [*nodes, add]

    # 3. An activation, which ends the tail: nothing is fused after it.
    last = follower()
    if last is not None and (activation := _activation(last, constants)):
        output, nodes = last.output[0], [*nodes, last]
    elif (found := _silu(output, view, taken)) is not None:
        activation, output, nodes = "Silu", found[1].output[0], [*nodes, *found]
    return Tail(tuple(nodes), output, bias, residual, activation)


def _same_shape(first: Shape | None, second: Shape | None) -> bool:
    """Both shapes are known and equal, symbols included."""
    return first is not None and None not in first and first == second


def _other(node: NodeProto, name: str) -> str:
    """The input of a two-input node that is not `name`; empty when it is `name` twice."""
    rest = [each for each in node.input if each != name]
    return rest[0] if len(rest) == 1 else ""


def _activation(node: NodeProto, constants: Arrays) -> str:
    if node.domain:
        return ""
    if node.op_type == "Relu":
        return "Relu"
    if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "none":
        return "Gelu"
    if node.op_type == "Clip" and len(node.input) == 3:
        # Only constant limits are known here, and only those of ReLU6 are in the kernels.
        limits = [constants.get(name) for name in node.input[1:]]
        if all(limit is not None and limit.size == 1 for limit in limits):
            low, high = (float(limit) for limit in limits if limit is not None)
            return "Relu6" if (low, high) == (0.0, 6.0) else ""
    return ""


def _silu(
    output: str, view: GraphView, taken: set[int]
) -> tuple[NodeProto, NodeProto] | None:
    """Sigmoid and Mul of x * sigmoid(x), when `output` is x and nothing else reads it."""
    # x is read twice, by the sigmoid and by the product, so `only_reader` does not see
    # this one.
    readers = view.uses.get(output, [])
    if (
        output in view.fixed
        or len(readers) != 2
        or any(node.domain or id(node) in taken for node in readers)
    ):
        return None
    by_type = {node.op_type: node for node in readers}
    sigmoid, product = by_type.get("Sigmoid"), by_type.get("Mul")
    if (
        sigmoid is None
        or product is None
        or view.only_reader(sigmoid.output[0]) is not product
    ):
        return None
    return (sigmoid, product) if _other(product, output) == sigmoid.output[0] else None
