"""Which tensors of an ONNX graph are prunable weights."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from sparsify_fx.passes.onnx_graph.view import attribute, subgraphs

# Inputs of these operators that are data or weights, but not biases or states.
_OPERANDS = {
    "Conv": 2, "ConvTranspose": 2, "DeformConv": 2, "Gemm": 2, "MatMul": 2, "FusedConv": 2, "FusedMatMul": 2,
    "FusedGemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3, "Einsum": 2,
}  # fmt: skip
# A weight may pass through these on its way to the operator.
LAYOUT = {"Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat"}


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside its nodes (branches of If, bodies of Loop and Scan), outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk_graphs(inner)


def weight_values(graph: onnx.GraphProto) -> set[str]:
    """Names of all values that reach a convolution, matrix product or recurrent operator by layout changes alone.

    The prunable weights are the float tensors with two or more dimensions among them; embeddings that are only
    looked up, position embeddings and norms are not. Cost: one look at every node.

    >>> node = onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])
    >>> sorted(weight_values(onnx.helper.make_graph([node], "g", [], [])))
    ['weight', 'x']
    """
    nodes = [node for inner in walk_graphs(graph) for node in inner.node]
    producers = {output: node for node in nodes for output in node.output}
    pending = [name for node in nodes for name in node.input[: _OPERANDS.get(node.op_type, 0)]]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if not name or name in found:
            continue
        found.add(name)
        source = producers.get(name)
        if source is not None and source.op_type in LAYOUT:
            # Only Concat takes several tensors; the other inputs of the rest are axes and shapes.
            pending.extend(source.input if source.op_type == "Concat" else source.input[:1])
    return found


def channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """The axis of the output channels for each value that a convolution or matrix product reads as its weight.

    0 for Conv and for Gemm with transB; 1 for ConvTranspose and Gemm; the last one for MatMul, -1. Values that
    nodes read both ways, or not at all, are left out.

    >>> node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    >>> channel_axes(onnx.helper.make_graph([node], "g", [], []))
    {'weight': -1}
    """
    found: dict[str, set[int]] = {}
    for inner in walk_graphs(graph):
        for node in inner.node:
            axis = _channel_axis(node)
            if axis is not None and len(node.input) > 1:
                found.setdefault(node.input[1], set()).add(axis)
    return {name: axes.pop() for name, axes in found.items() if len(axes) == 1}


def _channel_axis(node: onnx.NodeProto) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)
