"""Encoding dense: every entry is stored, in order."""

from __future__ import annotations

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.encoding import Encoding, shaped
from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.storage.codecs.values import Quantized, ValueKind


def _refuses(stored: Quantized, values: ValueKind) -> str | None:
    return None if stored.codes.size or values.name == "fp32" else "it is empty"


def _encode(stored: Quantized, values: ValueKind, operators: frozenset[str]) -> Parts:
    parts = Parts()
    if values.name == "fp32":
        parts.own(OUTPUT, stored.codes)
    else:
        shaped(
            parts,
            values.store(parts, np.ascontiguousarray(stored.codes).reshape(-1)),
            stored,
        )
    return parts


DENSE = Encoding("dense", 1, _refuses, _encode)
"""A plain initializer; with values other than fp32 one that a Cast turns into floats."""
