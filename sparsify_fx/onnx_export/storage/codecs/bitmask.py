"""Encoding bitmask: one bit an entry, for weights with few zeros."""

from __future__ import annotations

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.bits import (
    byte_indices,
    code_table,
    look_up,
    pack_bits,
)
from sparsify_fx.onnx_export.storage.codecs.encoding import Encoding, shaped, with_zeros
from sparsify_fx.onnx_export.storage.codecs.parts import Parts
from sparsify_fx.onnx_export.storage.codecs.values import Quantized, ValueKind


def _refuses(stored: Quantized, values: ValueKind) -> str | None:
    if stored.codes.size >= 2**31:
        return "it has 2**31 entries or more"
    if stored.zero is None:
        return "its channels have different zero points"
    return None if stored.places().size else "all its entries are zeros"


def _encode(stored: Quantized, values: ValueKind, operators: frozenset[str]) -> Parts:
    """weight[i] = mask[i] ? values[mask[0] + ... + mask[i] - 1] : 0."""
    parts, flat = Parts(), np.ascontiguousarray(stored.codes).reshape(-1)
    places, zero = stored.places(), stored.zero
    assert zero is not None
    mask = np.zeros(flat.size, np.uint8)
    mask[places] = 1
    packed = byte_indices(parts, "mask", pack_bits(mask, 1))
    held = look_up(
        parts, parts.table("codes_1", code_table(1)), packed, "held", 1, flat.shape
    )
    kept = values.store(parts, flat[places])
    # Codes stay codes until the end: as floats, a weight would be several times in memory.
    filled = with_zeros(parts, held, kept, zero.astype(stored.codes.dtype))
    shaped(parts, filled, stored)
    return parts


BITMASK = Encoding("bitmask", 11, _refuses, _encode)
"""1 bit an entry and the values."""
