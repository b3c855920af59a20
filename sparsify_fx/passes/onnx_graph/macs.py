"""Channels and multiply-accumulates of an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import onnx

from sparsify_fx.onnx_tools.shapes import infer_shapes
from sparsify_fx.onnx_tools.view import GraphView, input_of
from sparsify_fx.passes.onnx_graph.linear import linear_of

Size = TypeVar("Size", bound=int | str | None)


def count_channels(model: onnx.ModelProto) -> int:
    """Output channels of all layers with constant float weights: Conv, ConvTranspose, Gemm, MatMul."""
    view = GraphView(model)
    return sum(
        layer.channels
        for node in view.nodes
        if (layer := linear_of(node, view)) is not None
    )


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of those layers for one sample; axes without a static size count as 1.

    Conv: out spatial size x weights. ConvTranspose: in spatial size x weights. Gemm, MatMul: rows x weights.
    """
    return sum(layer_macs(model).values())


def layer_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each layer, by the name of its node's output.

    >>> make = onnx.helper
    >>> weight = make.make_tensor("w", 1, [3, 4], [1.0] * 12)
    >>> x, y = (make.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 3), ("y", 4)))
    >>> graph = make.make_graph([make.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    >>> layer_macs(make.make_model(graph))
    {'y': 12}
    """
    view, shapes = GraphView(model), infer_shapes(model)
    found = {}
    for node in view.nodes:
        layer = linear_of(node, view)
        if layer is not None:
            # Of one sample: without the first axis. An axis of unknown size counts as 1,
            # as rows of models with an open length would otherwise have no number at all.
            places = weight_places(node, shapes) or ()
            found[node.output[0]] = layer.values.size * math.prod(
                size for size in places[1:] if isinstance(size, int)
            )
    return found


def weight_places(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[Size, ...]]
) -> tuple[Size, ...] | None:
    """The axes along which a layer uses its weights again and again, samples first; None where the shape is not known.

    Conv: the axes of its output but channels; ConvTranspose: those of its input but channels; Gemm and MatMul: those of
    the output but the last. None for other operators.

    >>> weight_places(onnx.helper.make_node("Conv", ["x", "w"], ["y"]), {"y": ("N", 64, 7, 7)})
    ('N', 7, 7)
    """
    kind = node.op_type
    if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or not node.output:
        return None
    # A transposed convolution spreads each input over a kernel, so it uses W once an input.
    shape = shapes.get(input_of(node, 0) if kind == "ConvTranspose" else node.output[0])
    if not shape:
        return None
    return (*shape[:1], *shape[2:]) if kind.startswith("Conv") else shape[:-1]
