"""What a graph rebuilds its packed weights from: the nodes and tensors that nothing else needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx

from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_tools.weights import all_nodes


def producers_in(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """The node that makes each value."""
    found: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        found.update(dict.fromkeys(node.output, node))
    return found


def ancestors(name: str, producers: dict[str, onnx.NodeProto]) -> Iterator[str]:
    """`name` and every value that it is computed from."""
    pending, seen = [name], {name}
    while pending:
        value = pending.pop()
        yield value
        node = producers.get(value)
        fresh = (
            []
            if node is None
            else [part for part in node.input if part and part not in seen]
        )
        seen.update(fresh)
        pending += fresh


@dataclass(frozen=True)
class Rebuilding:
    """What only the rebuilding of some weights needs: names of tensors, positions of nodes, bytes for each weight.

    What several of the weights share is in `tensors` and `nodes`, and in no weight's `bytes`.
    """

    tensors: set[str]
    nodes: set[int]
    bytes: dict[str, int]


def rebuilding(
    graph: onnx.GraphProto, names: Iterable[str], reader: TensorReader
) -> Rebuilding:
    """Find the nodes and tensors from which these values of the graph are made, and nothing else is."""
    # 1. All that each weight is computed from.
    producers = producers_in(graph.node)
    made = {
        name: set(ancestors(name, producers)) for name in names if name in producers
    }

    # 2. How many of the weights need each value: what one alone needs is its own, the
    # rest is shared.
    users = Counter[str]()
    for values in made.values():
        users.update(values)

    # 3. What other nodes or outputs of the graph read stays, whoever else needs it.
    nodes, elsewhere = _only_for(graph, made, users)
    sizes = {tensor.name: reader.size(tensor) for tensor in graph.initializer}
    sizes |= {
        tensor.values.name: tensor.ByteSize() for tensor in graph.sparse_initializer
    }
    sizes |= {
        graph.node[place].output[0]: graph.node[place].ByteSize() for place in nodes
    }
    own = {
        name: sum(sizes.get(value, 0) for value in made[name] if users[value] == 1)
        for name in made
    }
    tensors = {
        value for value in users if value not in producers and value not in elsewhere
    }
    return Rebuilding(tensors, nodes, own)


def _only_for(
    graph: onnx.GraphProto, made: Collection[str], users: Collection[str]
) -> tuple[set[int], set[str]]:
    """The positions of the nodes that nothing but the rebuilding of weights needs, and all values that others read."""
    # From the end: a node's readers come after it, so by then it is known whether one of
    # them stays.
    elsewhere = {item.name for item in graph.output}
    found: set[int] = set()
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        # The weights themselves are read elsewhere, of course, and still replaced; of
        # values on the way no other may be.
        rebuilds = any(output in users for output in node.output)
        if rebuilds and all(
            output in made or output not in elsewhere for output in node.output
        ):
            found.add(place)
        else:
            # With the graphs inside of it: a branch reads values of the graph around it without naming them as inputs.
            for inner in all_nodes([node]):
                elsewhere.update(inner.input)
    return found, elsewhere
