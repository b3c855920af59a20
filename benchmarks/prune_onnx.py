"""Any ONNX file pruned by magnitude, and whether two files hold the same tensors; used by public_models.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sparsify_fx.onnx_export.storage.quantized import zero_points_by_place

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
Named = tuple[str, TensorProto]


def tensors_of(model: onnx.ModelProto) -> Iterator[Named]:
    """Every tensor of a model with its name: initializers, and those in nodes at any depth."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _in_node(node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[Named]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for sparse in graph.sparse_initializer:
        yield from (
            (sparse.values.name, part) for part in (sparse.values, sparse.indices)
        )
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[Named]:
    for attribute in node.attribute:
        held = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
        yield from ((node.output[0] if node.output else "", tensor) for tensor in held)
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from _in_graph(graph)


def prune(model: onnx.ModelProto, sparsity: float) -> tuple[int, int]:
    """Set the smallest entries of every weight to zero, in place; (zeros, entries) of these weights.

    A weight is a tensor with two axes longer than 1: of floats, or of 8-bit integers that an operator for quantized
    models reads, whose zeros are its zero points.
    """
    points = {
        name: point
        for (_, name), point in zero_points_by_place(
            model, numpy_helper.to_array
        ).items()
    }
    zeros = entries = 0
    for name, tensor in tensors_of(model):
        point = points.get(name)
        if sum(size > 1 for size in tensor.dims) < 2 or (
            tensor.data_type not in FLOATS and point is None
        ):
            continue
        array = numpy_helper.to_array(tensor)
        pruned = _pruned(
            array,
            np.zeros((), array.dtype) if point is None else point.astype(array.dtype),
            sparsity,
        )
        zeros += int((pruned == (0 if point is None else point)).sum())
        entries += array.size
        own = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(pruned, own))
    return zeros, entries


def _pruned(array: np.ndarray, zero: np.ndarray, sparsity: float) -> np.ndarray:
    """The entries farthest from zero, of equal ones the first, and zero elsewhere."""
    distance = np.abs(array.astype(np.float64) - zero.astype(np.float64)).ravel()
    order = np.argsort(-distance, kind="stable")[
        : max(1, round(array.size * (1 - sparsity)))
    ]
    kept = np.zeros(array.size, bool)
    kept[order] = True
    result: np.ndarray = np.where(kept.reshape(array.shape), array, zero).astype(
        array.dtype
    )
    return np.where(result == 0, np.zeros((), array.dtype), result)  # no -0.0


def first_difference(one: onnx.ModelProto, other: onnx.ModelProto) -> str | None:
    """The name of the first tensor whose bits, shape or type differ between two models, or of a missing one."""
    mine, theirs = (sorted(map(_bits, tensors_of(model))) for model in (one, other))
    odd = [left for left, right in zip(mine, theirs, strict=False) if left != right]
    if not odd and len(mine) != len(theirs):
        odd = max(mine, theirs, key=len)[min(len(mine), len(theirs)) :]
    return odd[0][0] if odd else None


def _bits(named: Named) -> tuple[str, int, tuple[int, ...], bytes]:
    name, tensor = named
    if tensor.data_type == TensorProto.STRING:
        return (
            name,
            tensor.data_type,
            tuple(tensor.dims),
            b"\0".join(tensor.string_data),
        )
    return (
        name,
        tensor.data_type,
        tuple(tensor.dims),
        numpy_helper.to_array(tensor).tobytes(),
    )
