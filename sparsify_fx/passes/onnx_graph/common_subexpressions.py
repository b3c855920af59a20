"""common-subexpressions: the same operator on the same inputs is computed once."""

from __future__ import annotations

import math

import onnx
from onnx import numpy_helper

from sparsify_fx.onnx_tools.randomness import RANDOM
from sparsify_fx.onnx_tools.view import GraphView, subgraphs
from sparsify_fx.passes.onnx_graph.base import GraphPass

_SMALL = 256  # entries; larger constants are compared by name only


def merge_common_subexpressions(model: onnx.ModelProto) -> bool:
    """Let the readers of a repeated node read the first one, and remove it.

    Nodes are the same when operator, attributes and inputs are; small constants count as inputs by their values. Nodes
    with subgraphs, of other domains or with random results are left alone, and so are those that make graph outputs.
    """
    view = GraphView(model)
    first: dict[tuple[object, ...], onnx.NodeProto] = {}
    dead = []
    for index, node in enumerate(view.nodes):
        if (
            node.op_type in RANDOM
            or node.domain not in ("", "ai.onnx")
            or any(subgraphs(node))
        ):
            continue
        key = (
            node.op_type,
            _attributes(node),
            len(node.output),
            *(_identity(name, view) for name in node.input),
        )
        twin = first.setdefault(key, node)
        if twin is node or not view.fixed.isdisjoint(node.output):
            continue
        if [bool(name) for name in twin.output] != [bool(name) for name in node.output]:
            continue
        for old, new in zip(node.output, twin.output, strict=True):
            view.reroute(old, new)
        dead.append(index)
    for index in reversed(dead):
        del model.graph.node[index]
    return bool(dead)


def _attributes(node: onnx.NodeProto) -> tuple[bytes, ...]:
    return tuple(
        sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
    )


def _identity(name: str, view: GraphView) -> object:
    """What two names must share to stand for the same value."""
    tensor = view.tensors.get(name)
    if (
        tensor is None
        or math.prod(tensor.dims) > _SMALL
        or tensor.data_location == onnx.TensorProto.EXTERNAL
    ):
        return name
    return tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()


COMMON_SUBEXPRESSIONS = GraphPass(
    "common-subexpressions", merge_common_subexpressions, exact=True
)
