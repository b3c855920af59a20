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

    Two nodes are the same when
        1. operator, attributes and number of outputs are the same, and they leave out the same outputs;
        2. each input is the same value, or a small constant with the same type, shape and bytes.

    A repeated node stays when
        1. it has a subgraph, which may read anything around it;
        2. it is of another domain, so that nothing is known of it;
        3. it draws random numbers: two draws are not one;
        4. it makes an output of the graph or a value that a subgraph reads: the interface keeps its names.

    Needs topological order. Afterwards no two nodes that may be merged are the same: inputs are compared after the
    nodes before them were merged, so one run finds whole chains.
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
        # The first one stays, as it comes before all readers of both.
        twin = first.setdefault(key, node)
        if twin is node or not view.fixed.isdisjoint(node.output):
            continue
        # MaxPool with and without its indices, say: the first one may not make what
        # readers of the second need.
        if [bool(name) for name in twin.output] != [bool(name) for name in node.output]:
            continue
        # Later nodes then read the same names, and are found to be the same in this walk.
        for old, new in zip(node.output, twin.output, strict=True):
            view.reroute(old, new)
        dead.append(index)
    # From the end, so that the places of the others hold.
    for index in reversed(dead):
        del model.graph.node[index]
    return bool(dead)


def _attributes(node: onnx.NodeProto) -> tuple[bytes, ...]:
    """The attributes as bytes; exporters write them in any order, which means nothing."""
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
