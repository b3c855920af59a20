"""Encoding coo: ONNX's own `sparse_initializer`, which every runtime of IR version 5 or later reads."""

from __future__ import annotations

from onnx import numpy_helper

from sparsify_fx.onnx_export.storage.codecs.encoding import (
    Encoding,
    as_floats,
    scale_of,
)
from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.storage.codecs.values import Quantized, ValueKind
from sparsify_fx.onnx_export.storage.sparse_initializers import encode_coo


def _refuses(stored: Quantized, values: ValueKind) -> str | None:
    if values.name == "fp32-packed":
        return "a sparse initializer holds plain values"
    if stored.background is not None:
        return "a sparse initializer for quantized weights is not what runtimes and tools expect"
    return None if stored.codes.ndim else "it is a scalar"


def _encode(stored: Quantized, values: ValueKind, operators: frozenset[str]) -> Parts:
    """The sparse tensor itself or, for other values than fp32, a Cast of it and the scale."""
    parts = Parts()
    if values.name == "fp32":
        parts.sparse = encode_coo(numpy_helper.from_array(stored.codes, OUTPUT))
        return parts
    parts.sparse = encode_coo(numpy_helper.from_array(stored.codes, "values"))
    as_floats(parts, "values", stored, scale_of(parts, stored), OUTPUT)
    return parts


COO = Encoding("coo", 1, _refuses, _encode)
"""A value and 1 to 4 bytes of position for each non-zero."""
