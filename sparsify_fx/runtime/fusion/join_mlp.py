"""Sparse matrix products fused as in a transformer: with the layer normalization before, and with the product after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import NodeProto, helper

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of, is_standard
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.fusion.join import add_attributes, own_node
from sparsify_fx.runtime.replace import set_nodes

MATMUL, MLP = "SparseMatMul", "SparseMlp"
MOST_SIDE = 1 << 12
"""Of a weight that is joined: what a tile of pixels reads and sums would no longer lie in a second-level cache."""

_PREFIX = "second_"
# The places of the scale and the shift of a normalization, and how many inputs come before them.
_NORM = {MATMUL: 5, MLP: 8}


def join_norms(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Joins, in place, each layer normalization with the sparse matrix product that alone reads its result."""
    view = GraphView(model)
    gone: set[str] = set()
    new: dict[str, NodeProto] = {}
    for node in view.nodes:
        product = view.only_reader(node.output[0]) if node.output else None
        if (
            product is not None
            and _is_product(product)
            and product.input[0] == node.output[0]
            and _is_norm(node, attributes(product), shapes)
        ):
            gone.add(node.output[0])
            new[product.output[0]] = _with_norm(node, product)
    _replace(model, view, new, gone)


def _replace(
    model: onnx.ModelProto,
    view: GraphView,
    new: Mapping[str, NodeProto],
    gone: set[str],
) -> None:
    """Puts joined nodes, by output, in the place of the later one, where all that either reads is there, in place."""
    nodes = [
        new.get(node.output[0], node) if node.output else node for node in view.nodes
    ]
    if new:
        left = [node for node in nodes if not gone.intersection(node.output)]
        set_nodes(model.graph, left, gone)


def _is_norm(
    node: NodeProto, product: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> bool:
    """Whether this normalizes what the product reads: over the last axis, with a scale and a shift for each place."""
    if not is_standard(node, "LayerNormalization") or any(node.output[1:]):
        return False
    length = product["weight_shape"][1 if product.get("transB", 0) else 0]
    axis, shape = attribute(node, "axis", -1), shapes.get(node.input[0])
    # An axis that is not counted from the end says which one it is only where their number is known.
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)
    # A scale may be broadcast in the standard operator; ours has one for each place.
    sides = all(shapes.get(name) == (length,) for name in node.input[1:] if name)
    return last and sides and attribute(node, "stash_type", 1) == 1


def _with_norm(norm: NodeProto, product: NodeProto) -> NodeProto:
    inputs = [norm.input[0], *product.input[1:], "", ""][: _NORM[MATMUL]]
    node = own_node(
        MATMUL,
        [*inputs, norm.input[1], input_of(norm, 2)],
        product.output[0],
        product.name,
    )
    node.attribute.extend(product.attribute)
    add_attributes(node, {"norm_epsilon": [attribute(norm, "epsilon", 1e-5)]})
    return node


def norm_parts(node: NodeProto) -> list[NodeProto]:
    """The normalization and the product of a joined node; any other node alone."""
    if not _is_product(node) or not _norm_inputs(node):
        return [node]
    found, between = attributes(node), f"{node.output[0]}.sparsify_fx.normalized"
    norm = helper.make_node(
        "LayerNormalization",
        [node.input[0], *_norm_inputs(node)],
        [between],
        axis=-1,
        epsilon=found.get("norm_epsilon", [1e-5])[0],
    )
    inputs = [between, *node.input[1 : _NORM[MATMUL]]]
    product = own_node(MATMUL, inputs, node.output[0], node.name)
    add_attributes(
        product,
        {name: value for name, value in found.items() if name != "norm_epsilon"},
    )
    return [norm, product]


def join_mlps(model: onnx.ModelProto) -> None:
    """Joins, in place, each sparse matrix product with the one that alone reads its result.

    The first may have an activation, but nothing is added to it; the second has no normalization.
    """
    view = GraphView(model)
    new: dict[str, NodeProto] = {}
    gone: set[str] = set()
    for node in view.nodes:
        second = view.only_reader(node.output[0]) if _is_first(node) else None
        # Of three in a row the first two are joined: a node that is joined already reads or gives no product's result.
        if (
            second is not None
            and _is_product(second)
            and second.input[0] == node.output[0]
            and not _norm_inputs(second)
            and node.output[0] not in new
        ):
            gone.add(node.output[0])
            new[second.output[0]] = _joined(node, second)
    _replace(model, view, new, gone)


def mlp_parts(node: NodeProto) -> list[NodeProto]:
    """The two products of a joined node; any other node alone."""
    if node.op_type != MLP or node.domain != DOMAIN:
        return [node]
    found, inputs = attributes(node), [*node.input, *[""] * 10][:10]
    between = f"{node.output[0]}.sparsify_fx.hidden"
    first = own_node(MATMUL, [*inputs[:4], "", *inputs[8:]], between, "")
    second = own_node(MATMUL, [between, *inputs[4:8]], node.output[0], node.name)
    for name, value in found.items():
        own = name.removeprefix(_PREFIX)
        add_attributes(first if own == name else second, {own: value})
    return [first, second]


def _joined(first: NodeProto, second: NodeProto) -> NodeProto:
    inputs = [*[*first.input, ""][:4], *[*second.input[1:], "", ""][:4]]
    node = own_node(MLP, [*inputs, *_norm_inputs(first)], second.output[0], second.name)
    node.attribute.extend(first.attribute)
    add_attributes(
        node, {_PREFIX + name: value for name, value in attributes(second).items()}
    )
    return node


def _norm_inputs(node: NodeProto) -> list[str]:
    """The scale and the shift of a product with a normalization."""
    return list(node.input[_NORM[MATMUL] :])


def _is_first(node: NodeProto) -> bool:
    return _is_product(node) and not input_of(node, 4)


def _is_product(node: NodeProto) -> bool:
    """Whether this is a packed SparseMatMul whose weight is not too large."""
    packed = node.domain == DOMAIN and node.op_type == MATMUL and input_of(node, 2)
    return bool(packed) and max(attributes(node)["weight_shape"]) <= MOST_SIDE
