"""The heart of attention in a graph: two products with a softmax between them, and where their operands come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, attribute, is_standard
from sparsify_fx.runtime.attention.moves import MOVES, Path, path_to
from sparsify_fx.runtime.fusion.fuse import Arrays


@dataclass(frozen=True)
class Core:
    """MatMul(Softmax(scale * MatMul(queries, keys)), values).

    Attributes:
        nodes: all of these, the last one first.
        axis: of the softmax.
        operands: the paths on which queries, keys and values come from the value `packed`.
        scales: what is multiplied with the queries, the keys and their products.
        following: nodes that move the result, one after another.
    """

    nodes: tuple[NodeProto, ...]
    axis: int
    packed: str
    operands: tuple[Path, Path, Path]
    scales: tuple[float, float, float]
    following: tuple[NodeProto, ...]

    @property
    def mixed(self) -> str:
        """The name of the result."""
        return str(self.nodes[0].output[0])


def core_of(
    softmax: NodeProto, view: GraphView, shapes: Mapping[str, Shape], constants: Arrays
) -> Core | None:
    """What there is around a softmax; None where its operands do not come from one value of three dimensions."""
    # Until opset 13 Softmax flattened all axes from the given one on.
    if not is_standard(softmax, "Softmax") or view.opset < 13:
        return None

    # 1. Down from the softmax to the product, through scales alone: a mask that is added
    # ends the search.
    scores = path_to(softmax.input[0], view, constants, ())

    # 2. The products on both sides. What the softmax gives must have no other reader, or
    # it would still be needed.
    product, mix = (
        view.producers.get(scores.values[0]),
        view.only_reader(softmax.output[0]),
    )
    if (
        product is None
        or mix is None
        or not (is_standard(product, "MatMul") and is_standard(mix, "MatMul"))
    ):
        return None

    # 3. Up each operand as far as it is only moved or scaled, to the value from which all
    # three come.
    queries, keys, values = (
        path_to(name, view, constants) for name in (*product.input, mix.input[1])
    )
    packed = _packed((queries, keys, values), view, shapes, constants)
    if packed is None or mix.input[0] != softmax.output[0]:
        return None
    operands = (
        queries.following(packed),
        keys.following(packed),
        values.following(packed),
    )
    # The operator has no scale for values.
    if operands[2].factor(constants) != 1:
        return None
    scales = (
        operands[0].factor(constants),
        operands[1].factor(constants),
        scores.factor(constants),
    )
    nodes = (mix, softmax, *scores.nodes, product)
    return Core(
        nodes,
        attribute(softmax, "axis", -1),
        packed,
        operands,
        scales,
        _following(mix, view),
    )


def _packed(
    paths: tuple[Path, ...],
    view: GraphView,
    shapes: Mapping[str, Shape],
    constants: Arrays,
) -> str | None:
    """The first value of three dimensions, the last of known length, on the part that all paths share."""
    start = view.producers.get(paths[0].values[0])
    read = (
        []
        if start is None
        else [constants[name].dtype for name in start.input if name in constants]
    )
    # Moves keep the type, and a product with a float32 weight is the only way to know it.
    if np.float32 not in read:
        return None
    # All paths begin at the same value if they meet at all, so they agree from the front
    # on as far as they share nodes.
    for trio in zip(*(path.values for path in paths), strict=False):
        shape = shapes.get(trio[0])
        if (
            len(set(trio)) == 1
            and shape is not None
            and len(shape) == 3
            and isinstance(shape[2], int)
        ):
            return str(trio[0])
    return None


def _following(mix: NodeProto, view: GraphView) -> tuple[NodeProto, ...]:
    nodes: list[NodeProto] = []
    while (node := view.only_reader((nodes or [mix])[-1].output[0])) is not None:
        if (
            not is_standard(node, *MOVES)
            or len(node.output) != 1
            or node.input[0] != (nodes or [mix])[-1].output[0]
        ):
            break
        nodes.append(node)
    return tuple(nodes)
