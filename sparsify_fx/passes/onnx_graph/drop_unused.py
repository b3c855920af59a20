"""drop-unused: nodes and initializers that no output depends on."""

from __future__ import annotations

import onnx

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.passes.onnx_graph.base import GraphPass


def drop_unused(model: onnx.ModelProto) -> bool:
    """Remove nodes whose outputs nobody reads, then initializers that nobody reads; inputs stay.

    A node that a later opset would draw random numbers with goes too: nothing can tell.
    """
    view = GraphView(model)
    graph, needed = model.graph, set(view.fixed)
    dead = []
    for index in range(len(view.nodes) - 1, -1, -1):
        node = view.nodes[index]
        if needed.isdisjoint(name for name in node.output if name):
            dead.append(index)
        else:
            needed.update(node.input)
    for index in dead:
        del graph.node[index]
    unused = [
        i
        for i, tensor in enumerate(graph.initializer)
        if tensor.name not in needed | view.inputs
    ]
    for index in reversed(unused):
        del graph.initializer[index]
    sparse = [
        i
        for i, tensor in enumerate(graph.sparse_initializer)
        if tensor.values.name not in needed
    ]
    for index in reversed(sparse):
        del graph.sparse_initializer[index]
    if dead or unused:
        forget_shapes(model)
    return bool(dead or unused or sparse)


def forget_shapes(model: onnx.ModelProto) -> None:
    """Drop the recorded types of values that are gone."""
    graph = model.graph
    known = {item.name for item in (*graph.input, *graph.initializer)}
    known |= {item.values.name for item in graph.sparse_initializer}
    for node in graph.node:
        known.update(node.output)
    for index in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[index].name not in known:
            del graph.value_info[index]


DROP_UNUSED = GraphPass("drop-unused", drop_unused, exact=True)
