"""Nodes and weights of an ONNX model exchanged for others."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from onnx import NodeProto, TensorProto

from sparsify_fx.onnx_tools.view import GraphView


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that can be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def replace(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], weights: Iterable[TensorProto]
) -> None:
    """New nodes and weights into the model, in place; constants and shapes that nothing needs any more go."""
    graph = model.graph
    # Copies, since clearing a field of a message ends the life of what it held.
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    # What was read before, to tell it from what nothing ever read: that is not ours to
    # remove.
    old = GraphView(model)
    before = old.uses.keys() | old.fixed
    gone = _outputs(graph.node) - _outputs(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    # From the end, since deleting moves what follows.
    view = GraphView(model)
    read = view.uses.keys() | view.fixed
    for place in reversed(range(len(graph.node))):
        names = set(graph.node[place].output)
        if (
            graph.node[place].op_type == "Constant"
            and names <= before
            and names.isdisjoint(read)
        ):
            gone |= names
            del graph.node[place]
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in before - read:
            del graph.initializer[place]
    graph.initializer.extend(weights)
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in gone:
            del graph.value_info[place]


def _outputs(nodes: Iterable[NodeProto]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        found.update(node.output)
    return found


def set_nodes(
    graph: onnx.GraphProto, nodes: Iterable[NodeProto], gone: Collection[str]
) -> None:
    """These nodes in the place of all others, in place; the shapes of values that are `gone` go with them."""
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in gone:
            del graph.value_info[place]
