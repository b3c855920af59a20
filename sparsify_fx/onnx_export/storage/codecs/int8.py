"""Values int8: symmetric, with one scale for each output channel."""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_export.storage.codecs.parts import Parts
from sparsify_fx.onnx_export.storage.codecs.values import (
    Array,
    Quantized,
    ValueKind,
    Weight,
    not_float32,
)


def _refuses(weight: Weight) -> str | None:
    """Nothing but finite float32 tensors with channels."""
    if (reason := not_float32(weight)) is not None:
        return reason
    if weight.array.ndim < 2:
        return "it has no output channels (one axis)"
    return None if np.isfinite(weight.array).all() else "it holds NaN or Inf"


def _quantize(weight: Weight) -> Quantized:
    """scale[c] = max |w[c]| / 127, code = round(w / scale), ties to even; a channel of zeros has scale 1."""
    channel = weight.channel_axis % weight.array.ndim
    axes = tuple(axis for axis in range(weight.array.ndim) if axis != channel)
    # In double precision: the largest value over 127 can be a float32 denormal that rounds to 0.
    largest = (
        np.abs(weight.array).max(axis=axes, keepdims=True, initial=0).astype(np.float64)
    )
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    scale[largest == 0] = 1
    codes = np.clip(np.round(weight.array / scale), -127, 127).astype(np.int8)
    return Quantized(codes, weight.array.dtype, scale)


def _store(parts: Parts, vector: Array) -> str:
    return parts.node(
        "Cast",
        [parts.own("values", vector)],
        "values_f",
        {"to": onnx.TensorProto.FLOAT},
    )


INT8 = ValueKind("int8", False, _refuses, _quantize, _store, 8)
"""1 byte a value and 4 a channel; error at most half a step, max |w[c]| / 254."""
