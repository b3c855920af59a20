"""Ways to store a weight: where its zeros are (an encoding) and what its values are (a kind of value)."""

from sparsify_fx.onnx_export.storage.codecs.bitmask import BITMASK
from sparsify_fx.onnx_export.storage.codecs.coo import COO
from sparsify_fx.onnx_export.storage.codecs.dense import DENSE
from sparsify_fx.onnx_export.storage.codecs.encoding import Encoding, entropy_bytes
from sparsify_fx.onnx_export.storage.codecs.fp16 import FP16
from sparsify_fx.onnx_export.storage.codecs.fp32 import FP32
from sparsify_fx.onnx_export.storage.codecs.fp32_packed import FP32_PACKED
from sparsify_fx.onnx_export.storage.codecs.gap import GAP
from sparsify_fx.onnx_export.storage.codecs.int8 import INT8
from sparsify_fx.onnx_export.storage.codecs.parts import (
    OUTPUT,
    SHARED,
    Parts,
    own_bytes,
)
from sparsify_fx.onnx_export.storage.codecs.values import Quantized, ValueKind, Weight

ENCODINGS = {encoding.name: encoding for encoding in (DENSE, COO, GAP, BITMASK)}
"""Encodings by name, as `export(encoding=...)` takes them; of two that give the same size the first counts."""

VALUES = {kind.name: kind for kind in (FP32, FP32_PACKED, FP16, INT8)}
"""Kinds of values by name, as `export(values=...)` takes them."""

__all__ = [
    "ENCODINGS", "OUTPUT", "SHARED", "VALUES", "Encoding", "Parts", "Quantized", "ValueKind", "Weight",
    "entropy_bytes", "own_bytes",
]  # fmt: skip
