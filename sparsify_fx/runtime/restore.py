"""Sparse operators become standard ones again, with every bit of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools.view import attribute
from sparsify_fx.runtime.attention.operator import is_attention, standard_attention
from sparsify_fx.runtime.candidates import DOMAIN, KINDS
from sparsify_fx.runtime.coded.weights import FORMAT, decode_codes
from sparsify_fx.runtime.encode import decode_gaps
from sparsify_fx.runtime.fusion.halve import HALVE, standard_halves
from sparsify_fx.runtime.fusion.join import parts
from sparsify_fx.runtime.fusion.join_mlp import mlp_parts, norm_parts
from sparsify_fx.runtime.fusion.join_pool import pool_parts
from sparsify_fx.runtime.fusion.join_sum import sum_parts
from sparsify_fx.runtime.fusion.planes import without_planes
from sparsify_fx.runtime.fusion.pools import standard_pool
from sparsify_fx.runtime.quantized.record import with_codes
from sparsify_fx.runtime.replace import copied, replace

Read = Callable[[TensorProto], NDArray[Any]]


def sparse_weights(model: onnx.ModelProto) -> dict[str, NodeProto]:
    """The sparse operator of every weight that one holds, by the weight's name; empty for any other model."""
    return {_weight_name(node): node for node in _apart(model) if _is_ours(node)}


def format_of(model: onnx.ModelProto) -> int:
    """The format of weights that a library has to read for this model; 0 where there are no sparse operators.

    >>> format_of(onnx.ModelProto())
    0
    """
    held = sparse_weights(model)
    coded = {f"{name}.values" for name in held}
    kinds = {
        tensor.data_type for tensor in model.graph.initializer if tensor.name in coded
    }
    if not held:
        return 0
    return FORMAT if TensorProto.UINT8 in kinds else 1


def to_dense(
    model: onnx.ModelProto, read: Read = numpy_helper.to_array
) -> onnx.ModelProto:
    """A copy of `model` in standard operators alone, which any onnxruntime runs: the way back from `to_sparse`.

    `read` gives the arrays of initializers, for models with external data. Raises ExportError for weights that are
    damaged or were not written by `to_sparse`.
    """
    dense = copied(model)
    constants = {tensor.name: tensor for tensor in dense.graph.initializer}
    nodes: list[NodeProto] = []
    weights: dict[str, TensorProto] = {}
    for node in _apart(dense):
        if node.domain == DOMAIN and node.op_type == HALVE:
            nodes += standard_halves(node, weights)
            continue
        if not _is_ours(node):
            nodes += (
                standard_attention(node, weights)
                if is_attention(node)
                else [standard_pool(node)]
            )
            continue
        name = _weight_name(node)
        # A weight that several nodes read is decoded once.
        if name not in constants and name not in weights:
            weights[name] = numpy_helper.from_array(
                _weight(node, name, constants, read), name
            )
        nodes += _dense_nodes(node, name, weights)
    replace(dense, nodes, weights.values())
    with_codes(dense)
    # Functions may lie in our domain too, so its import stays with them.
    if not dense.functions:
        kept = [opset for opset in dense.opset_import if opset.domain != DOMAIN]
        del dense.opset_import[:]
        dense.opset_import.extend(kept)
    return dense


def _apart(model: onnx.ModelProto) -> Iterator[NodeProto]:
    """The nodes in order, joined ones as their parts."""
    # Planes go first: they renamed the values that the parts of a fused node are about to read.
    for node in without_planes(model.graph.node):
        # The fusions of convolutions take plain SparseConv nodes only, so they never nest, and their order is free. A
        # product in an MLP may have a normalization of its own.
        apart = [node]
        for taken_apart in (pool_parts, sum_parts, parts, mlp_parts, norm_parts):
            joined, apart = apart, []
            for each in joined:
                apart += taken_apart(each)
        yield from apart


def _is_ours(node: NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in KINDS.values()


def _weight_name(node: NodeProto) -> str:
    return str(node.input[1]).removesuffix(".values")


def _weight(
    node: NodeProto, name: str, constants: dict[str, TensorProto], read: Read
) -> NDArray[Any]:
    """The dense weight of a sparse operator."""
    shape = attribute(node, "weight_shape")
    parts = [constants.get(each) for each in node.input[1:3]]
    if shape is None or len(parts) < 2 or parts[0] is None or parts[1] is None:
        raise ExportError(
            f"{name}: the sparse operator {node.name!r} has no packed weight; write the file again"
        )
    values, gaps = read(parts[0]), read(parts[1])
    decode = decode_codes if values.dtype == np.uint8 else decode_gaps
    try:
        return decode(values, gaps, tuple(shape))
    except (ValueError, IndexError) as error:
        raise ExportError(
            f"{name}: its gap codes are damaged ({error}); write the file again"
        ) from error


def _dense_nodes(
    node: NodeProto, weight: str, weights: dict[str, TensorProto]
) -> list[NodeProto]:
    """The standard operators of one sparse one: layer, bias, residual, activation."""
    _, _, _, bias, residual = (*node.input, "", "", "")[:5]
    output, activation, conv = (
        node.output[0],
        attribute(node, "activation", ""),
        node.op_type == "SparseConv",
    )
    # Conv and Gemm add their bias themselves; a MatMul has none.
    joined = conv or attribute(node, "transB") is not None

    # 1. What the operator computes, as standard operators with their inputs beside the
    # running value.
    steps = [
        (
            "Conv" if conv else "Gemm" if joined else "MatMul",
            [weight, bias] if joined and bias else [weight],
        )
    ]
    steps += [("Add", [bias])] if bias and not joined else []
    steps += [("Add", [residual])] if residual else []
    steps += [(activation, [])] if activation in ("Relu", "Gelu") else []
    if activation == "Relu6":
        # Named after the output, as the tensors between are: a model may hold any fixed name itself.
        limits = {f"{output}.sparsify_fx.zero": 0.0, f"{output}.sparsify_fx.six": 6.0}
        for limit, value in limits.items():
            weights[limit] = helper.make_tensor(limit, TensorProto.FLOAT, [], [value])
        steps.append(("Clip", list(limits)))
    steps += [("Sigmoid", [])] if activation == "Silu" else []

    # 2. A chain of them; only the last gives the old output.
    nodes, name = [], node.input[0]
    for number, (kind, others) in enumerate(steps):
        final = number + 1 == len(steps) and activation != "Silu"
        following = output if final else f"{output}.sparsify_fx.{number}"
        nodes.append(
            helper.make_node(
                kind,
                [name, *others],
                [following],
                name=node.name if number == 0 else "",
            )
        )
        name = following
    # SiLU reads its input twice: x * sigmoid(x).
    if activation == "Silu":
        nodes.append(helper.make_node("Mul", [nodes[-1].input[0], name], [output]))
    if conv or joined:
        nodes[0].attribute.extend(
            a for a in node.attribute if a.name not in ("activation", "weight_shape")
        )
    return nodes
