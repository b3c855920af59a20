"""Which tensors of an ONNX graph are prunable weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import onnx

from sparsify_fx.onnx_tools.view import attribute, subgraphs

# Positions of the inputs of these operators that are data or weights, but not biases, scales or states.
_TWO, _QUANTIZED = (0, 1), (0, 3)
_OPERANDS = {
    "Conv": _TWO, "ConvTranspose": _TWO, "DeformConv": _TWO, "Gemm": _TWO, "MatMul": _TWO, "FusedConv": _TWO,
    "FusedMatMul": _TWO, "FusedGemm": _TWO, "Einsum": _TWO, "Attention": _TWO,
    "LSTM": (0, 1, 2), "GRU": (0, 1, 2), "RNN": (0, 1, 2), "DynamicQuantizeLSTM": (0, 1, 2),
    "ConvInteger": _TWO, "MatMulInteger": _TWO, "MatMulIntegerToFloat": _TWO, "DynamicQuantizeMatMul": _TWO,
    "QAttention": _TWO, "QLinearConv": _QUANTIZED, "QLinearMatMul": _QUANTIZED, "QGemm": _QUANTIZED,
}  # fmt: skip
# A weight may pass through these on its way to the operator.
LAYOUT = {
    "Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat",
    "DequantizeLinear",
}  # fmt: skip

Key = tuple[str, str, str]
"""Domain, name and overload of a local function."""


def key_of(function: onnx.FunctionProto) -> Key:
    """What a call of this function says."""
    return function.domain, function.name, getattr(function, "overload", "")


def called(node: onnx.NodeProto) -> Key:
    """The function that a node calls, if there is one of this name."""
    return node.domain, node.op_type, getattr(node, "overload", "")


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside its nodes (branches of If, bodies of Loop and Scan), outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk_graphs(inner)


def weight_values(
    graph: onnx.GraphProto, functions: Iterable[onnx.FunctionProto] = ()
) -> set[str]:
    """Names of all values that reach a convolution, matrix product or recurrent operator by layout changes alone.

    The prunable weights are the tensors of numbers with two or more dimensions among them; embeddings that are only
    looked up, position embeddings and norms are not. Quantized weights reach the operator through DequantizeLinear, or
    directly where it takes integers. Calls of `functions` read what their bodies read. Cost: one look at every node.

    >>> node = onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])
    >>> sorted(weight_values(onnx.helper.make_graph([node], "g", [], [])))
    ['weight', 'x']
    """
    return _reaching(all_nodes(graph.node), _positions(functions)[1])


def function_weights(functions: Iterable[onnx.FunctionProto]) -> dict[Key, set[str]]:
    """As `weight_values`, for the values inside the bodies of local functions."""
    return _positions(functions)[0]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, each followed by those of the graphs inside it."""
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner.node)


def _positions(
    functions: Iterable[onnx.FunctionProto],
) -> tuple[dict[Key, set[str]], dict[Key, tuple[int, ...]]]:
    """For each function its values that are weights, and the positions of its inputs among these."""
    inside: dict[Key, set[str]] = {}
    positions: dict[Key, tuple[int, ...]] = {}
    waiting = list(functions)
    for _ in range(
        len(waiting)
    ):  # a function may call others, wherever they stand: until nothing new is found
        # Each round takes the knowledge one call deeper. There are no more levels than
        # functions, as calls in circles are no valid model.
        before = dict(positions)
        for function in waiting:
            found = _reaching(all_nodes(function.node), positions)
            inside[key_of(function)] = found
            positions[key_of(function)] = tuple(
                i for i, name in enumerate(function.input) if name in found
            )
        if positions == before:
            break
    return inside, positions


def _reaching(
    nodes: Iterable[onnx.NodeProto], positions: Mapping[Key, tuple[int, ...]]
) -> set[str]:
    """The values that reach an operand; `positions`: those of calls."""
    nodes = list(nodes)
    producers = defaultdict(list)  # branches may use the same names
    for node in nodes:
        for output in node.output:
            producers[output].append(node)
    pending = []
    for node in nodes:
        # A function of the model hides an operator of its name: its body says what is a weight.
        places = positions.get(called(node)) or _OPERANDS.get(node.op_type, ())
        pending += [node.input[place] for place in places if place < len(node.input)]
    # Backwards from the operands through what only moves entries; each value is looked at once.
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if not name or name in found:
            continue
        found.add(name)
        for source in producers.get(name, ()):
            if source.op_type in LAYOUT:
                # Only Concat takes several tensors; the other inputs of the rest are
                # axes, shapes and scales.
                pending.extend(
                    source.input if source.op_type == "Concat" else source.input[:1]
                )
    return found


def channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """The axis of the output channels for each value that a convolution or matrix product reads as its weight.

    0 for Conv and for Gemm with transB; 1 for ConvTranspose and for recurrent layers, whose first axis is the
    direction; the last one, -1, for Gemm and MatMul. Values that nodes read both ways, or not at all, are left out.

    >>> node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    >>> channel_axes(onnx.helper.make_graph([node], "g", [], []))
    {'weight': -1}
    """
    found: dict[str, set[int]] = {}
    for inner in walk_graphs(graph):
        for node in inner.node:
            # A weight that is read both as rows and as columns has no axis of its own.
            axis = _channel_axis(node)
            for name in node.input[1 : 3 if node.op_type in _RECURRENT else 2]:
                if axis is not None:
                    found.setdefault(name, set()).add(axis)
    return {name: axes.pop() for name, axes in found.items() if len(axes) == 1}


_RECURRENT = dict.fromkeys(("LSTM", "GRU", "RNN"), 1)


def _channel_axis(node: onnx.NodeProto) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else -1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, **_RECURRENT}.get(node.op_type)
