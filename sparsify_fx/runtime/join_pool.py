"""A sparse convolution and the maximum pooling behind it as one operator, whose middle never lies in memory."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import NodeProto, helper

from sparsify_fx.passes.onnx_graph.view import GraphView
from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.pools import POOL

JOINED = "SparseConvPool"
MOST_PLANES = 1 << 16
"""Columns of the weight, its kernels unrolled, up to which the operator takes it."""

_PREFIX = "pool_"


def join_pools(model: onnx.ModelProto) -> None:
    """Joins, in place, each sparse convolution with the MaxPool of ours that alone reads its result."""
    graph = model.graph
    readers = Counter(name for node in graph.node for name in node.input)
    kept = GraphView(model).fixed
    makers = {node.output[0]: node for node in graph.node if _fits(node)}
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
        if not (node.op_type == POOL and node.domain == DOMAIN and node.output[0] in gone)
    ]
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in joined:
            del graph.value_info[place]


def pool_parts(node: NodeProto) -> list[NodeProto]:
    """The convolution and the pooling of a joined node; any other node alone."""
    if node.op_type != JOINED or node.domain != DOMAIN:
        return [node]
    found, between = attributes(node), f"{node.output[0]}.sparsify_fx.between"
    own = {name: value for name, value in found.items() if not name.startswith(_PREFIX)}
    pool = {name.removeprefix(_PREFIX): value for name, value in found.items() if name.startswith(_PREFIX)}
    return [
        helper.make_node("SparseConv", node.input, [between], name=node.name, domain=DOMAIN, **own),
        helper.make_node(POOL, [between], node.output, domain=DOMAIN, **pool),
    ]


def _joined(conv: NodeProto, pool: NodeProto) -> NodeProto:
    found = attributes(conv) | {_PREFIX + name: value for name, value in attributes(pool).items()}
    return helper.make_node(JOINED, conv.input, pool.output, name=conv.name, domain=DOMAIN, **found)


def _fits(node: NodeProto) -> bool:
    """Whether the node is a packed SparseConv in two dimensions, of one group, to which nothing is added."""
    if node.op_type != "SparseConv" or node.domain != DOMAIN or len(node.input) > 4 or not node.input[2]:
        return False
    found = attributes(node)
    shape = found["weight_shape"]
    return len(shape) == 4 and found.get("group", 1) == 1 and shape[1] * shape[2] * shape[3] <= MOST_PLANES
