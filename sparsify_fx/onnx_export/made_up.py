"""Inputs for an ONNX model of which nothing but its signature is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sparsify_fx.errors import ExportError

_FREE = 32
"""The length of an axis that can have any; of the first axis 1."""


def made_up_inputs(model: onnx.ModelProto, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random arrays for the inputs by name: normal floats, integers 0, true; free axes of length 32, the first 1.

    Raises ExportError for inputs that are no tensors of numbers.
    """
    rng, stored = np.random.default_rng(seed), {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return {item.name: _array(item, rng) for item in model.graph.input if item.name not in stored}


def _array(item: onnx.ValueInfoProto, rng: np.random.Generator) -> NDArray[Any]:
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or kind.elem_type in (0, onnx.TensorProto.STRING):
        raise ExportError(f"input {item.name!r} is no tensor of numbers")
    dims = kind.shape.dim
    shape = [dim.dim_value or (_FREE if axis else 1) for axis, dim in enumerate(dims)]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if kind.elem_type == onnx.TensorProto.BOOL:
        return np.ones(shape, dtype)
    floats = kind.elem_type in (
        onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
    )  # fmt: skip
    return rng.standard_normal(shape).astype(dtype) if floats else np.zeros(shape, dtype)
