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

_SMALLEST = 2.0**-14
"""Below this half precision has fewer than its 11 bits."""


def _refuses(weight: Weight) -> str | None:
    """Nothing but float32 below 65504, where larger values become Inf, and of which at least the largest is exact."""
    if (reason := not_float32(weight)) is not None:
        return reason
    if not np.isfinite(weight.array).all():
        return "it holds NaN or Inf"
    largest = float(np.abs(weight.array).max(initial=0))
    if largest > 65504:
        return f"its largest value {largest:.3g} is beyond fp16 (65504)"
    # Smaller numbers lose their last bits, and from 3e-8 on all of them: a weight of nothing else would become zeros.
    return (
        f"its largest value {largest:.3g} is below fp16's normal numbers (6.1e-5)"
        if 0 < largest < _SMALLEST
        else None
    )


def _quantize(weight: Weight) -> Quantized:
    return Quantized(weight.array.astype(np.float16), weight.array.dtype)


def _store(parts: Parts, vector: Array) -> str:
    return parts.own("values", vector)


FP16 = ValueKind("fp16", False, _refuses, _quantize, _store, 16)
"""2 bytes a value; relative error at most 2**-11 above 6e-5."""
