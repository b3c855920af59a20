"""Encoding gap: the zeros between two values as codes of 4 or 8 bits, summed up by standard operators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.onnx_export.codecs.bits import byte_indices, code_table, look_up, pack_bits
from sparsify_fx.onnx_export.codecs.encoding import Encoding, nonzero_places, shaped, with_zeros
from sparsify_fx.onnx_export.codecs.parts import Parts
from sparsify_fx.onnx_export.codecs.values import Quantised, ValueKind

WIDTHS = (4, 8)


def gap_codes(places: NDArray[np.intp], bits: int) -> NDArray[np.uint8]:
    """Codes of ascending places: c < 2**bits - 1 is c zeros and a value, the largest code is that many zeros alone.

    place = sum of min(code + 1, 2**bits - 1) up to the code - 1. A gap of g zeros takes g // (2**bits - 1) codes
    without a value and one with.

    >>> gap_codes(np.array([0, 3, 20]), 4).tolist()
    [0, 2, 15, 1]
    """
    most = (1 << bits) - 1
    gaps = np.diff(places, prepend=-1) - 1
    skips = gaps // most
    codes = np.full(places.size + int(skips.sum()), most, np.uint8)
    codes[np.cumsum(skips + 1) - 1] = gaps - skips * most
    return codes


def _refuses(stored: Quantised, values: ValueKind) -> str | None:
    return "it has 2**31 entries or more" if stored.codes.size >= 2**31 else None


def _encode(stored: Quantised, values: ValueKind) -> Parts:
    """zeros.scatter(place, value): codes without a value write the zero that is there already."""
    parts, flat = Parts(), np.ascontiguousarray(stored.codes).reshape(-1)
    zeros, places = parts.zeros(flat.size, stored.dtype), nonzero_places(flat)
    if places.size:
        place, held = _places(parts, places)
        updates = values.store(parts, flat[places])
        if held is not None:
            updates = with_zeros(parts, held, updates, stored.dtype)
        zeros = parts.node("ScatterElements", [zeros, place, updates], "flat", {"axis": 0})
    shaped(parts, zeros, stored)
    return parts


def _places(parts: Parts, places: NDArray[np.intp]) -> tuple[str, str | None]:
    """Store the places in the fewest bits; the values that hold them and, if some codes have no value, which have."""
    candidates = {bits: gap_codes(places, bits) for bits in WIDTHS}
    bits = min(WIDTHS, key=lambda width: candidates[width].size * width)
    codes, most, table = candidates[bits], (1 << bits) - 1, code_table(bits).squeeze()
    packed = byte_indices(parts, "gaps", pack_bits(codes, bits))
    axis, one = parts.share("axis", np.array(0, np.int64)), parts.share("one", np.array(1, np.int32))
    step = look_up(parts, parts.table(f"steps_{bits}", np.minimum(table + 1, most)), packed, "steps", bits, codes.size)
    place = parts.node("Sub", [parts.node("CumSum", [step, axis], "ends"), one], "places")
    if codes.size == places.size:
        return place, None
    return place, look_up(parts, parts.table(f"holds_{bits}", table < most), packed, "holds", bits, codes.size)


GAP = Encoding("gap", 11, _refuses, _encode)
"""5.0 bits a value at density 0.1 (entropy 4.7), 7.5 at 0.05 (5.7), 8.0 at 0.02 (7.1)."""
