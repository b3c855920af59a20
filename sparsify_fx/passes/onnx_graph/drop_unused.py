"""drop-unused: nodes and initializers that no output depends on."""

from __future__ import annotations

import onnx

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.passes.onnx_graph.base import GraphPass


def drop_unused(model: onnx.ModelProto) -> bool:
    """Remove what no output of the graph and no subgraph depends on.

    1. Nodes none of whose outputs are read, and those that only such nodes read.
    2. Dense and sparse initializers that are left without a reader.
    3. Recorded types of values that are gone.

    Inputs stay, and with them initializers that are their default values. A node that draws random numbers goes too:
    nothing can tell.
    """
    view = GraphView(model)
    graph, needed = model.graph, set(view.fixed)
    dead = []
    # Backwards, readers before makers: one walk is enough, as nodes are in topological
    # order. What subgraphs read is in `fixed`, and so needed from the start.
    for index in range(len(view.nodes) - 1, -1, -1):
        node = view.nodes[index]
        if needed.isdisjoint(name for name in node.output if name):
            dead.append(index)
        else:
            needed.update(node.input)
    for index in dead:
        del graph.node[index]

    # An initializer that is an input as well stays: a caller may feed it.
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
    # A type that outlives its value would bind a name that a later pass may take for another value.
    known = {item.name for item in (*graph.input, *graph.initializer)}
    known |= {item.values.name for item in graph.sparse_initializer}
    for node in graph.node:
        known.update(node.output)
    for index in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[index].name not in known:
            del graph.value_info[index]


DROP_UNUSED = GraphPass("drop-unused", drop_unused, exact=True)
