"""Two sparse 1x1 convolutions whose results are added, as one operator: a residual block's end and its projection."""

from __future__ import annotations

import onnx
from onnx import NodeProto

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.fusion.join import add_attributes, own_node, read_counts
from sparsify_fx.runtime.replace import set_nodes

SUM = "SparseConvSum"

_NAMES = {"weight_shape": "projection_shape", "strides": "projection_strides"}


def join_sums(model: onnx.ModelProto) -> None:
    """Joins, in place, each sparse 1x1 convolution with the one whose result it alone reads, and adds to its own."""
    graph = model.graph
    readers = read_counts(graph.node)
    kept = GraphView(model).fixed
    # The projection must not have an activation, nor a residual of its own: only a plain
    # sum can be one accumulation.
    makers = {
        node.output[0]: node
        for node in graph.node
        if _is_point(node)
        and not _residual(node)
        and "activation" not in attributes(node)
        if readers[node.output[0]] == 1 and node.output[0] not in kept
    }
    gone: set[str] = set()
    nodes = []
    for node in graph.node:
        first = makers.get(_residual(node)) if _is_point(node) else None
        if first is not None:
            gone.add(first.output[0])
        nodes.append(node if first is None else _joined(first, node))
    set_nodes(graph, [node for node in nodes if gone.isdisjoint(node.output)], gone)


def sum_parts(node: NodeProto) -> list[NodeProto]:
    """The two convolutions of a joined node; any other node alone."""
    if node.op_type != SUM or node.domain != DOMAIN:
        return [node]
    found, inputs = attributes(node), [*node.input, "", ""][:8]
    between = f"{node.output[0]}.sparsify_fx.projection"
    first = own_node("SparseConv", inputs[4:], between, "")
    second = own_node("SparseConv", [*inputs[:4], between], node.output[0], node.name)
    add_attributes(
        first, {own: found[name] for own, name in _NAMES.items() if name in found}
    )
    add_attributes(
        second,
        {
            name: value
            for name, value in found.items()
            if not name.startswith("projection_")
        },
    )
    return [first, second]


def _joined(first: NodeProto, second: NodeProto) -> NodeProto:
    node = own_node(
        SUM, [*second.input[:4], *first.input], second.output[0], second.name
    )
    add_attributes(
        node,
        {name: value for name, value in attributes(second).items() if name != "pads"},
    )
    more = attributes(first)
    add_attributes(
        node, {name: more[own] for own, name in _NAMES.items() if own in more}
    )
    return node


def _residual(node: NodeProto) -> str:
    return node.input[4] if len(node.input) > 4 else ""


def _is_point(node: NodeProto) -> bool:
    """Whether this is a packed SparseConv of images with 1x1 kernels, one group and no padding."""
    if node.op_type != "SparseConv" or node.domain != DOMAIN or not node.input[2]:
        return False
    found = attributes(node)
    plain = found.get("group", 1) == 1 and max(found.get("pads", [0])) == 0
    return (
        len(found["weight_shape"]) == 4
        and list(found["weight_shape"][2:]) == [1, 1]
        and plain
    )
