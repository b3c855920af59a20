"""Values fp32: raw, lossless. The same for other types: their own raw bits."""

from __future__ import annotations

from sparsify_fx.onnx_export.storage.codecs.parts import Parts
from sparsify_fx.onnx_export.storage.codecs.values import (
    Array,
    Quantized,
    ValueKind,
    Weight,
)


def _refuses(weight: Weight) -> str | None:
    return None


def _quantize(weight: Weight) -> Quantized:
    background = None if weight.zero is None else weight.zero.astype(weight.array.dtype)
    return Quantized(weight.array, weight.array.dtype, background=background)


def _store(parts: Parts, vector: Array) -> str:
    return parts.own("values", vector)


FP32 = ValueKind("fp32", True, _refuses, _quantize, _store, 32)
"""4 bytes a value, the bits as they are; what every weight can fall back to."""
