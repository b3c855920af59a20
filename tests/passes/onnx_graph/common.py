"""Small ONNX graphs, and how the tests run and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
OPSETS = [helper.make_opsetid("", 18)]


def make(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Any],
    x: Sequence[int | str] = ("N", 3, 8, 8),
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A checked model with the input `x` and the given initializers; lists become float32."""
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        for name, value in tensors.items()
    }
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x))],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )
    inferred = onnx.shape_inference.infer_shapes(model)
    for item in model.graph.output:
        found = next(
            found for found in inferred.graph.output if found.name == item.name
        )
        known = found.type.tensor_type.HasField("shape")
        item.CopyFrom(
            found
            if known
            else helper.make_tensor_value_info(
                item.name, onnx.TensorProto.FLOAT, [None] * 4
            )
        )
    onnx.checker.check_model(model)
    return model


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, `-` is an input that is left out."""
    return helper.make_node(
        kind,
        [name.strip("-") for name in inputs.split()],
        outputs.split(),
        **attributes,
    )


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal float32."""
    return (
        np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    )


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    """The outputs in onnxruntime, nothing optimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def distance(before: onnx.ModelProto, after: onnx.ModelProto, x: Array) -> float:
    """The largest difference over all outputs, relative to the largest entry; shapes must agree."""
    worst = 0.0
    for a, b in zip(run(before, x), run(after, x), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        worst = max(
            worst, float(np.abs(a - b).max()) / max(float(np.abs(a).max()), 1e-3)
        )
    return worst


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]
