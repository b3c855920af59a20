"""fold-constants: nodes that depend on constants alone become constants."""

from __future__ import annotations

import onnx

from sparsify_fx.onnx_tools.evaluate import Array, evaluate
from sparsify_fx.onnx_tools.randomness import RANDOM
from sparsify_fx.onnx_tools.view import GraphView, is_standard, subgraphs
from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.drop_unused import forget_shapes

KEPT = RANDOM | {
    "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "ScatterElements", "ScatterND", "Scatter",
    "CumSum", "MaxUnpool", "BitShift", "BitwiseAnd", "BitwiseOr", "NonZero", "Compress", "Unique",
}  # fmt: skip
"""Operators that unpack small constants to large ones: the decoders of sparse and of quantized weights."""

_FREE = 64  # bytes; a scalar or a shape may grow by this much


def fold_constants(model: onnx.ModelProto) -> bool:
    """Evaluate, in onnxruntime, every node whose inputs are constants: the bits that it would compute at load.

    1. Constant nodes become initializers, whatever their size.
    2. Other standard nodes with inputs become their results, which later nodes of the same run see as constants.

    A node stays when
        1. its result would be larger than the constants that it frees (Expand, Tile, ConstantOfShape, Range);
        2. it draws random numbers or decodes weights (`KEPT`), or holds a sparse tensor;
        3. it has a subgraph, is of another domain, or onnxruntime refuses it;
        4. it makes a graph output or a value that a subgraph reads.

    Afterwards no initializer is left that only folded nodes read. Needs topological order.
    """
    view = GraphView(model)
    dead = []
    for index, node in enumerate(view.nodes):
        values = _folded(node, view)
        if values is None:
            continue
        # `view` gets the results at once, but not `uses`: those count the readers of
        # the old graph, by which a constant is private.
        for name, value in zip(
            [name for name in node.output if name], values, strict=True
        ):
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            view.tensors[name] = model.graph.initializer[-1]
        dead.append(index)
    for index in reversed(dead):
        del model.graph.node[index]
    if dead:
        _drop_freed(view)
        forget_shapes(model)
    return bool(dead)


def _folded(node: onnx.NodeProto, view: GraphView) -> list[Array] | None:
    """The results where the node should be folded."""
    if (
        node.domain not in ("", "ai.onnx")
        or node.op_type in KEPT
        or any(subgraphs(node))
    ):
        return None
    # A Constant with `sparse_value` or the like is small as it is: evaluated, it would be dense.
    if not view.fixed.isdisjoint(node.output) or any(
        item.name.startswith("sparse_") for item in node.attribute
    ):
        return None
    inputs = {name: view.constant(name) for name in node.input if name}
    known = {name: value for name, value in inputs.items() if value is not None}
    if len(known) < len(inputs) or (not inputs and not is_standard(node, "Constant")):
        return None
    values = evaluate(node, view.model, known)
    if values is None or len(values) != sum(bool(name) for name in node.output):
        return None
    # A constant that others read too stays in the file, whatever becomes of this node.
    freed = sum(value.nbytes for name, value in known.items() if view.is_private(name))
    grows = sum(value.nbytes for value in values) > freed + _FREE
    return None if grows and not is_standard(node, "Constant") else values


def _drop_freed(view: GraphView) -> None:
    """Initializers that only folded nodes read."""
    # Only constants that were read before: one that never had a reader is
    # drop-unused's, which runs last and reports it.
    after = GraphView(view.model)
    freed = {
        name for name in after.tensors if name in view.uses and not after.uses.get(name)
    } - after.fixed
    for index in range(len(after.graph.initializer) - 1, -1, -1):
        if after.graph.initializer[index].name in freed:
            del after.graph.initializer[index]


FOLD_CONSTANTS = GraphPass("fold-constants", fold_constants, exact=True)
