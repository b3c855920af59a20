"""Channels and multiply-accumulates of an ONNX graph."""

from __future__ import annotations

import math

import onnx

from sparsify_fx.passes.onnx_graph.linear import linear_of
from sparsify_fx.passes.onnx_graph.shapes import Shape, infer_shapes
from sparsify_fx.passes.onnx_graph.view import GraphView


def count_channels(model: onnx.ModelProto) -> int:
    """Output channels of all layers with constant float weights: Conv, ConvTranspose, Gemm, MatMul."""
    view = GraphView(model)
    return sum(layer.channels for node in view.nodes if (layer := linear_of(node, view)) is not None)


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
            source = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
            found[node.output[0]] = layer.values.size * _places(shapes.get(source, ()), node.op_type)
    return found


def _places(shape: Shape, kind: str) -> int:
    """How often the weights are used in one sample."""
    axes = shape[2:] if kind.startswith("Conv") else shape[1:-1]
    return math.prod(size for size in axes if isinstance(size, int))
