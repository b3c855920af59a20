"""Which tensors can be packed at all, and from where they are taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sparsify_fx.onnx_export.storage.hoisting import hoist
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.quantized import (
    INTEGERS,
    kept_inside,
)
from sparsify_fx.onnx_tools.constants import Constant

SMALL = 1024
"""Bytes of a dense tensor that `auto` leaves alone: nothing is to be gained there."""

PACKED_TYPES = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    *INTEGERS,
)
"""The types of tensors that can be stored without their zeros."""


def hoisted(model: onnx.ModelProto) -> Moved:
    """All constants that could be packed as initializers of the main graph, in place; where they were before."""

    # Found before anything moves: it goes by scopes and their numbers.
    kept = kept_inside(model)

    def large(each: Constant) -> bool:
        tensor = each.tensor
        assert isinstance(tensor, onnx.TensorProto)
        return (
            tensor.data_type in PACKED_TYPES
            and _nbytes(tensor) > SMALL
            # onnxruntime loads no model in which these lie outside.
            and (each.scope, each.name) not in kept
        )

    return hoist(model, large)


def _nbytes(tensor: onnx.TensorProto) -> int:
    entries: int = math.prod(tensor.dims)
    return (
        entries * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    )


def is_matrix(data_type: int, shape: Any) -> bool:
    """Whether this is a tensor of two or more dimensions, of floats or of the integers of quantized weights."""
    kinds = onnx.TensorProto
    floats = (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)
    return len(shape) >= 2 and data_type in (*floats, *INTEGERS)


def dtype_name(data_type: int) -> str:
    """ONNX's number of a type as numpy's word for it: 1 -> `float32`."""
    name: str = onnx.TensorProto.DataType.Name(data_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
