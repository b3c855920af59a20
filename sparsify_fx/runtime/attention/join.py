"""Attention between layers, which onnxruntime computes in a dozen operators, as one that makes no copies."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, helper

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.runtime.attention.core import Core, core_of
from sparsify_fx.runtime.attention.operator import attention_node
from sparsify_fx.runtime.attention.trial import Match, match
from sparsify_fx.runtime.fusion.fuse import Arrays
from sparsify_fx.runtime.replace import replace


def join_attention(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], constants: Arrays
) -> None:
    """Joins, in place, softmax(scale Q K^T) V where Q, K and V are heads of one value and nobody else reads the steps.

    The operators that move them may be any, see `attention_trial`. With a mask or whatever else between, all stays.
    """
    # Cores are found and matched on the model as it is; nodes are replaced at the end,
    # all at once.
    view = GraphView(model)
    gone: set[int] = set()
    read: set[str] = set()  # by the new operators
    new: dict[int, list[NodeProto]] = {}
    for node in view.nodes:
        core = core_of(node, view, shapes, constants)
        found = None if core is None else match(core, view, shapes, constants)
        if core is None or found is None:
            continue
        # If any step has a reader elsewhere it must be computed anyway, and the operator
        # would come on top.
        dead = _unread(found, view, gone, {*read, core.packed})
        if all(id(step) in dead for step in _steps(core, found)):
            gone |= dead
            read.add(core.packed)
            new[id(found.last)] = _replacement(core, found)
    if new:
        nodes: list[NodeProto] = []
        for node in view.nodes:
            nodes += _instead(node, new, gone)
        replace(model, nodes, [])


def _instead(
    node: NodeProto, new: Mapping[int, list[NodeProto]], gone: set[int]
) -> list[NodeProto]:
    return new.get(id(node), [] if id(node) in gone else [node])


def _steps(core: Core, found: Match) -> list[NodeProto]:
    """All nodes that compute or move values, and so must have no other readers."""
    moving: list[NodeProto] = []
    for path in core.operands:
        moving += path.nodes
    return [
        *core.nodes,
        *moving,
        *core.following[: core.following.index(found.last) + 1],
    ]


def _unread(found: Match, view: GraphView, gone: set[int], read: set[str]) -> set[int]:
    """Those of the nodes of `found` that nobody needs once the last one is replaced."""
    own, dead, kept = (
        {id(node) for node in found.nodes},
        {id(found.last)},
        view.fixed | read,
    )
    # From the end, since a node is dead when all of its readers are.
    for node in reversed(view.nodes):
        readers: set[int] = set()
        for name in node.output:
            readers.update(id(reader) for reader in view.uses.get(name, []))
        if id(node) in own and kept.isdisjoint(node.output) and readers <= dead | gone:
            dead.add(id(node))
    return dead


def _replacement(core: Core, found: Match) -> list[NodeProto]:
    name, output = core.nodes[0].name, found.last.output[0]
    if not found.reshaped:
        return [attention_node(found.heads, core.packed, output, name)]
    # The operator writes three dimensions; the graph's own Reshape gives them the shape
    # that they had.
    between = f"{output}.sparsify_fx.heads"
    reshape = helper.make_node(
        "Reshape", [between, found.last.input[1]], [output], name=found.last.name
    )
    reshape.attribute.extend(found.last.attribute)
    return [attention_node(found.heads, core.packed, between, name), reshape]
