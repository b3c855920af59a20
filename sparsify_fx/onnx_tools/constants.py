"""Every constant tensor of an ONNX model, wherever it lies: in graphs, in nodes, in the bodies of functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from sparsify_fx.onnx_tools.view import is_standard, subgraphs
from sparsify_fx.onnx_tools.weights import all_nodes

Stored = onnx.TensorProto | onnx.SparseTensorProto


@dataclass(frozen=True)
class Scope:
    """A place with names of its own: the main graph, a graph inside a node, or a function's body (or a graph in it).

    `function`: the function to which it belongs, None in the main graph and in its graphs; `outer`: the number of the
    scope around it, -1 for the main graph and for bodies of functions, which see nothing of the outside.
    """

    body: onnx.GraphProto | onnx.FunctionProto
    function: onnx.FunctionProto | None = None
    outer: int = -1


@dataclass(frozen=True)
class Constant:
    """A constant: the name of its value, its tensor, and the number of its scope.

    `node`: its Constant node, if it has one, and `at`: the position of that among the nodes of its scope.
    """

    name: str
    tensor: Stored
    scope: int
    node: onnx.NodeProto | None = None
    at: int = -1


def scopes(model: onnx.ModelProto) -> list[Scope]:
    """The main graph, all graphs inside its nodes (outermost first), then each function and the graphs inside it."""
    found: list[Scope] = []

    def add(
        body: onnx.GraphProto | onnx.FunctionProto,
        function: onnx.FunctionProto | None,
        outer: int,
    ) -> None:
        # Appended before its inner graphs are visited, so that numbers go outermost
        # first and `outer` is always smaller: the walk outward ends.
        number = len(found)
        found.append(Scope(body, function, outer))
        for node in body.node:
            for inner in subgraphs(node):
                add(inner, function, number)

    add(model.graph, None, -1)
    for function in model.functions:
        add(function, function, -1)
    return found


def constants(model: onnx.ModelProto) -> Iterator[Constant]:
    """Every initializer, dense or sparse, and every tensor in a Constant node, of all scopes in order.

    >>> node = onnx.helper.make_node("Constant", [], ["w"], value=onnx.helper.make_tensor("", 1, [2], [1.0, 0.0]))
    >>> model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    >>> [(constant.name, list(constant.tensor.dims)) for constant in constants(model)]
    [('w', [2])]
    """
    for number, scope in enumerate(scopes(model)):
        # Bodies of functions have no initializers; their constants are nodes.
        if isinstance(scope.body, onnx.GraphProto):
            yield from (
                Constant(tensor.name, tensor, number)
                for tensor in scope.body.initializer
            )
            yield from (
                Constant(tensor.values.name, tensor, number)
                for tensor in scope.body.sparse_initializer
            )
        for at, node in enumerate(scope.body.node):
            if (tensor := held_tensor(node)) is not None:
                yield Constant(node.output[0], tensor, number, node, at)


def held_tensor(node: onnx.NodeProto) -> Stored | None:
    """The tensor in a Constant node; None for other nodes, and for the short forms that hold numbers or text."""
    if not is_standard(node, "Constant") or len(node.output) != 1:
        return None
    # `value` or `sparse_value`; `value_float`, `value_ints` and the like are too small to store.
    held: Iterator[Stored] = (
        attribute.t if attribute.HasField("t") else attribute.sparse_tensor
        for attribute in node.attribute
        if attribute.HasField("t") or attribute.HasField("sparse_tensor")
    )
    return next(held, None)


def names_of(model: onnx.ModelProto) -> Counter[str]:
    """Every name of a value, and in how many scopes it is defined."""
    found: Counter[str] = Counter()
    for scope in scopes(model):
        # A name counts once a scope, however often it is read there.
        found.update(defined_in(scope.body))
        for node in scope.body.node:
            # Names that are read and never defined are taken as well, with a count of
            # 0: nobody else may get them.
            found.update(dict.fromkeys(node.input, 0))
    return found


def defined_in(body: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """The names of values that a scope defines itself: inputs, initializers, and what its nodes make."""
    found: set[str] = set()
    for node in body.node:
        found.update(node.output)
    if isinstance(body, onnx.FunctionProto):
        return found | set(body.input)
    found |= {item.name for item in (*body.input, *body.initializer)}
    return found | {tensor.values.name for tensor in body.sparse_initializer}


def outputs_of(body: onnx.GraphProto | onnx.FunctionProto) -> set[str]:
    """The names of a scope's outputs."""
    if isinstance(body, onnx.GraphProto):
        return {item.name for item in body.output}
    return set(body.output)


def calls(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.NodeProto, onnx.FunctionProto | None]]:
    """Every node of the model with the function in whose body it stands, None for the main graph."""
    yield from ((node, None) for node in all_nodes(model.graph.node))
    for function in model.functions:
        yield from ((node, function) for node in all_nodes(function.node))
