"""A sparse convolution and the maximum pooling after it fused: the values between them are never materialized."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.fusion.join import read_counts
from sparsify_fx.runtime.fusion.pools import POOL
from sparsify_fx.runtime.replace import set_nodes

JOINED = "SparseConvPool"
FEW_PLANES, FEW_NONZEROS = 32, 28
"""A layer with so few input planes, or non-zeros in a row on average, is joined: writing its result takes long then, as
against computing it. With more, the planes that a row reads would no longer lie in the nearest cache."""

MOST_COLUMNS = 1 << 16
"""Of a weight; the operator refuses some with more."""

_PREFIX = "pool_"


def join_pools(model: onnx.ModelProto) -> None:
    """Joins, in place, each sparse convolution with the MaxPool of ours that alone reads its result."""
    graph = model.graph
    readers = read_counts(graph.node)
    kept = GraphView(model).fixed
    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if _fits(node, weights)}
    joined = {
        node.input[0]: _joined(makers[node.input[0]], node)
        for node in graph.node
        if node.op_type == POOL and node.domain == DOMAIN and node.input[0] in makers
        if readers[node.input[0]] == 1 and node.input[0] not in kept
    }
    # In the place of the convolution, so that all that it reads is there and nobody waits for its result.
    gone = {node.output[0] for node in joined.values()}
    nodes = [
        joined.get(node.output[0], node) if node.output else node
        for node in graph.node
        if not (
            node.op_type == POOL and node.domain == DOMAIN and node.output[0] in gone
        )
    ]
    set_nodes(graph, nodes, joined)


def pool_parts(node: NodeProto) -> list[NodeProto]:
    """The convolution and the pooling of a joined node; any other node alone."""
    if node.op_type != JOINED or node.domain != DOMAIN:
        return [node]
    found, between = attributes(node), f"{node.output[0]}.sparsify_fx.between"
    own = {name: value for name, value in found.items() if not name.startswith(_PREFIX)}
    pool = {
        name.removeprefix(_PREFIX): value
        for name, value in found.items()
        if name.startswith(_PREFIX)
    }
    return [
        helper.make_node(
            "SparseConv", node.input, [between], name=node.name, domain=DOMAIN, **own
        ),
        helper.make_node(POOL, [between], node.output, domain=DOMAIN, **pool),
    ]


def _joined(conv: NodeProto, pool: NodeProto) -> NodeProto:
    found = attributes(conv) | {
        _PREFIX + name: value for name, value in attributes(pool).items()
    }
    return helper.make_node(
        JOINED, conv.input, pool.output, name=conv.name, domain=DOMAIN, **found
    )


def _fits(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether the node is a packed SparseConv in two dimensions, of one group and little work, and adds nothing."""
    if (
        node.op_type != "SparseConv"
        or node.domain != DOMAIN
        or len(node.input) > 4
        or not node.input[2]
    ):
        return False
    found = attributes(node)
    shape = found["weight_shape"]
    if (
        len(shape) != 4
        or found.get("group", 1) != 1
        or math.prod(shape[1:]) > MOST_COLUMNS
    ):
        return False
    # Phases of a stride are planes of their own to the kernel.
    steps = math.prod(
        min(side, step)
        for side, step in zip(shape[2:], found.get("strides", [1, 1]), strict=True)
    )
    if shape[1] * steps <= FEW_PLANES:
        return True
    # Bridges over wide gaps are stored zeros; what is counted are weights that take time.
    values = numpy_helper.to_array(weights[node.input[1]])
    return bool(np.count_nonzero(values) <= FEW_NONZEROS * shape[0])
