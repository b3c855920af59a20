"""Random weights with special values, and graphs that return their initializers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.constants import scopes

SPECIAL = np.array(
    [-0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, 1.0], np.float32
)
"""With a signaling NaN and one with a payload, which arithmetic would change."""
SPECIAL = np.concatenate(
    [SPECIAL, np.array([0x7F800001, 0xFFC12345], np.uint32).view(np.float32)]
)


def random_tensor(
    shape: tuple[int, ...],
    density: float,
    special: float,
    seed: int,
    dtype: Any = np.float32,
) -> NDArray[Any]:
    """Normal values at `density`, a fraction `special` of them replaced by special ones, zeros elsewhere."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        values = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
        values = np.where(
            rng.random(shape) < special,
            rng.choice(SPECIAL.astype(dtype), shape),
            values,
        )
    return (
        np.where(rng.random(shape) < density, values, np.zeros(1, dtype))
        .astype(dtype)
        .reshape(shape)
    )


def model_with(
    arrays: dict[str, NDArray[Any]], opset: int = 18, ir_version: int = 9
) -> onnx.ModelProto:
    """A graph that returns its initializers."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in arrays]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [
        helper.make_tensor_value_info(f"{w.name}_out", w.data_type, list(w.dims))
        for w in weights
    ]
    graph = helper.make_graph(nodes, "g", [], outputs, initializer=weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def matmul_with(
    weight: NDArray[Any], opset: int = 18, ir_version: int = 9
) -> onnx.ModelProto:
    """y = x @ w, so that w is a prunable weight."""
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    ends = [
        helper.make_tensor_value_info(name, kind, ["n", size])
        for name, size in zip("xy", weight.shape, strict=True)
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


__all__ = [
    "SPECIAL",
    "TensorProto",
    "in_one_order",
    "matmul_with",
    "model_with",
    "random_tensor",
]


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def run(path: Path, feed: dict[str, NDArray[Any]]) -> list[Any]:
    return list(
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            None, feed
        )
    )


def in_one_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the initializers of every graph sorted by name: their order alone may change."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for scope in scopes(copied):
        if isinstance(scope.body, onnx.GraphProto):
            scope.body.initializer.sort(key=lambda each: each.name)
    return copied
