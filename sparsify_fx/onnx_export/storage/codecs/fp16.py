"""Values fp16: half precision, rounded to nearest; about 3 decimal digits."""

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
    """Nothing but float32 below 65504: larger values would become Inf."""
    if (reason := not_float32(weight)) is not None:
        return reason
    if not np.isfinite(weight.array).all():
        return "it holds NaN or Inf"
    largest = float(np.abs(weight.array).max(initial=0))
    return (
        f"its largest value {largest:.3g} is beyond fp16 (65504)"
        if largest > 65504
        else None
    )


def _quantize(weight: Weight) -> Quantized:
    return Quantized(weight.array.astype(np.float16), weight.array.dtype)


def _store(parts: Parts, vector: Array) -> str:
    return parts.own("values", vector)


FP16 = ValueKind("fp16", False, _refuses, _quantize, _store, 16)
"""2 bytes a value; relative error at most 2**-11 above 6e-5."""
