"""Values int8: symmetric, with one scale for each output channel."""

from __future__ import annotations

import numpy as np

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
    """scale[c] = max |w[c]| / 127, code = round(w / scale), ties to even.

    Scales are integers times one power of two for the whole weight, rounded up, so that no code exceeds 127. The
    largest has 30 bits; one that is a thousandth of it still 20.
    """
    channel = weight.channel_axis % weight.array.ndim
    axes = tuple(axis for axis in range(weight.array.ndim) if axis != channel)
    # In double precision: the largest value over 127 can be a float32 denormal that rounds to 0.
    largest = np.abs(weight.array).max(axis=axes, keepdims=True, initial=0)
    wanted = largest.astype(np.float64) / 127
    _, exponent = np.frexp(wanted.max(initial=0))
    unit = 2.0 ** (int(exponent) - 30)
    # At least 1, also for channels of zeros, since codes are divided by it.
    scale = np.maximum(np.ceil(wanted / unit), 1).astype(np.int32)
    codes = np.round(weight.array / (scale * unit)).astype(np.int8)
    return Quantized(codes, weight.array.dtype, scale, unit=unit)


def _store(parts: Parts, vector: Array) -> str:
    return parts.own("values", vector)


INT8 = ValueKind("int8", False, _refuses, _quantize, _store, 8)
"""1 byte a value and 4 a channel; error at most half a step, max |w[c]| / 254."""
