"""Helpers of the tests of dead and unread channels: every rewritten graph runs in onnxruntime beside the original."""

from __future__ import annotations

from typing import Any

import onnx

from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS, UNREAD_CHANNELS
from tests.passes.onnx_graph.common import Array, copy, distance, make, node, normal

X = normal(2, 3, 8, 8)


CONV = {"kernel_shape": [3, 3]}


PADDED = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def without(weight: Array, rows: Any = (), columns: Any = ()) -> Array:
    """The weight with dead outputs (rows) and unread inputs (columns)."""
    weight = weight.copy()
    weight[list(rows)] = 0
    weight[:, list(columns)] = 0
    return weight


def removed(
    model: onnx.ModelProto, *passes: Any, x: Array = X, tolerance: float = 1e-6
) -> onnx.ModelProto:
    """The model after the passes, each of which must change it, once; equal in onnxruntime."""
    work = copy(model)
    for one in passes or (DEAD_CHANNELS,):
        assert one.run(work)
        assert not one.run(work)
    onnx.checker.check_model(work, full_check=True)
    assert list(work.graph.input) == list(model.graph.input)
    assert list(work.graph.output) == list(model.graph.output)
    assert distance(model, work, x) <= tolerance
    return work


def untouched(model: onnx.ModelProto, *passes: Any) -> None:
    """No pass changes a byte."""
    before = model.SerializeToString(deterministic=True)
    for one in passes or (DEAD_CHANNELS, UNREAD_CHANNELS):
        assert not one.run(model)
    assert model.SerializeToString(deterministic=True) == before


def two_convs(
    bias: Any, second: dict[str, Any], activation: str = "Relu", **more: Array
) -> onnx.ModelProto:
    """conv a (4 channels, number 1 and 2 dead) -> activation -> conv b (5 channels)."""
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1, 2]),
        "a_bias": bias,
        "b": normal(5, 4, 3, 3),
        **more,
    }
    nodes = [
        node("Conv", "x a a_bias", "h", **CONV),
        node(activation, "h", "z"),
        node("Conv", "z b b_bias" if "b_bias" in tensors else "z b", "y", **second),
    ]
    return make(nodes, tensors)
