"""A sparse 1x1 convolution and the depthwise one after it fused: the values between them are never materialized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from onnx import NodeProto, helper

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.replace import set_nodes

JOINED = "SparseConvDepthwise"
SIZES = (3, 5, 7)
"""Sides of the square depthwise kernels that the library computes densely."""

_OF_SECOND = ("group", "strides", "pads", "activation")


def is_depthwise(shape: tuple[int, ...], found: Mapping[str, Any]) -> bool:
    """Whether the library computes a convolution with this weight and these attributes densely, channel by channel.

    >>> is_depthwise((32, 1, 3, 3), {"group": 32, "strides": [2, 2]})
    True
    """
    if len(shape) != 4 or shape[1] != 1 or found.get("group", 1) != shape[0]:
        return False
    steps = (
        max(found.get("strides", [1])) <= 2 and max(found.get("dilations", [1])) == 1
    )
    return steps and shape[2] == shape[3] and shape[2] in SIZES


def is_pointwise(shape: tuple[int, ...], found: Mapping[str, Any]) -> bool:
    """Whether such a convolution has 1x1 kernels, one group, and neither stride nor padding."""
    plain = max(found.get("strides", [1])) == 1 and max(found.get("pads", [0])) == 0
    return (
        len(shape) == 4
        and tuple(shape[2:]) == (1, 1)
        and found.get("group", 1) == 1
        and plain
    )


def fits_planes(shape: tuple[int, ...], found: Mapping[str, Any]) -> bool:
    """Whether the library computes such a convolution on padded planes: 1x1, or 3x3 with pads of 1; steps of 1 or 2."""
    steps, pads = found.get("strides", [1, 1]), found.get("pads", [0])
    sides = (
        len(shape) == 4
        and tuple(shape[2:]) in ((1, 1), (3, 3))
        and set(pads) == {shape[3] // 2}
    )
    plain = found.get("group", 1) == 1 and max(found.get("dilations", [1])) == 1
    return sides and plain and max(steps) <= 2 and len(set(steps)) == 1


def join_depthwise(model: onnx.ModelProto) -> None:
    """Joins, in place, each sparse 1x1 convolution with the sparse depthwise one that alone reads its result."""
    graph = model.graph
    readers = read_counts(graph.node)
    kept = GraphView(model).fixed
    makers = {node.output[0]: node for node in graph.node if _fits(node, is_pointwise)}
    # The pair is fused only if nobody else needs what passes between: it never lies in
    # memory.
    seconds = {
        node.input[0]: node
        for node in graph.node
        if _fits(node, is_depthwise) and node.input[0] in makers
        if readers[node.input[0]] == 1 and node.input[0] not in kept
    }
    nodes = []
    for node in graph.node:
        if node.output and node.output[0] in seconds:
            # The pair stands where the second one was: all that either reads is there by then.
            continue
        first = (
            makers.get(node.input[0])
            if node.input and seconds.get(node.input[0]) == node
            else None
        )
        nodes.append(node if first is None else _joined(first, node))
    set_nodes(graph, nodes, seconds)


def parts(node: NodeProto) -> list[NodeProto]:
    """The two convolutions of a joined node; any other node alone."""
    if node.op_type != JOINED or node.domain != DOMAIN:
        return [node]
    found = attributes(node)
    inputs, between = [*node.input, "", ""][:7], f"{node.output[0]}.sparsify_fx.between"
    first = own_node("SparseConv", inputs[:4], between, "")
    # The fused node was named after the second one.
    second = own_node("SparseConv", [between, *inputs[4:]], node.output[0], node.name)
    add_attributes(
        first,
        {name: found[name] for name in ("weight_shape", "activation") if name in found},
    )
    names = {"weight_shape": "depthwise_shape"} | {
        name: f"depthwise_{name}" for name in _OF_SECOND
    }
    add_attributes(
        second, {own: found[name] for own, name in names.items() if name in found}
    )
    return [first, second]


def _joined(first: NodeProto, second: NodeProto) -> NodeProto:
    inputs = [*[*first.input, ""][:4], *second.input[1:]]
    node = own_node(JOINED, inputs, second.output[0], second.name)
    found, more = attributes(first), attributes(second)
    add_attributes(
        node,
        {name: found[name] for name in ("weight_shape", "activation") if name in found},
    )
    add_attributes(node, {"depthwise_shape": more["weight_shape"]})
    add_attributes(
        node, {f"depthwise_{name}": more[name] for name in _OF_SECOND if name in more}
    )
    return node


def _fits(node: NodeProto, kind: Any) -> bool:
    """Whether the node is a packed SparseConv of this kind to which nothing is added."""
    if (
        node.op_type != "SparseConv"
        or node.domain != DOMAIN
        or len(node.input) > 4
        or not node.input[2]
    ):
        return False
    found = attributes(node)
    return bool(kind(tuple(found["weight_shape"]), found))


def read_counts(nodes: Iterable[NodeProto]) -> Counter[str]:
    """How often these nodes read each value; one that a node reads twice counts twice."""
    found = Counter[str]()
    for node in nodes:
        found.update(node.input)
    return found


def own_node(kind: str, inputs: list[str], output: str, name: str) -> NodeProto:
    """An operator of this package without attributes; inputs that are empty at the end are left out."""
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(kind, inputs, [output], name=name, domain=DOMAIN)


def add_attributes(node: NodeProto, values: Mapping[str, Any]) -> None:
    """Append attributes by name, in place."""
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in values.items()
    )
