"""Codes of the zeros between two values, 4 or 8 bits each, with patches for those that are wider."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.storage.codecs.bits import (
    Places,
    byte_indices,
    code_table,
    look_up,
    pack_bits,
    with_stops,
)
from sparsify_fx.onnx_export.storage.codecs.parts import Parts

_WIDTHS = (4, 8)
"""Bits of the low part of a gap."""
_HIGH_WIDTHS = (2, 3, 4)
"""Bits of the high part, which shares a byte with the distance to the patch before."""
_PATCH_NODES = 500
"""Bytes of the nodes that apply patches."""


@dataclass(frozen=True)
class Gaps:
    """Places as codes: gap[i] = low[i] + 2**bits * high[j] for the patch j at i, place = cumsum(gap + 1) - `back`.

    `places`: of the values and of zeros that are stored because a gap is too wide for any code. `patched`: the low
    parts that have a patch; a patch with high 0 is there because two others are too far apart. `back`: 1 if the first
    place is 0, else 0, because then the first gap is stored less one.
    """

    bits: int
    high_bits: int
    places: Places
    low: Places
    patched: Places
    high: Places
    back: int

    def cost(self, value_bits: float) -> float:
        """Bits of all codes and nodes, and of all values with `value_bits` each."""
        patches = 8 * (self.patched.size + _PATCH_NODES) if self.patched.size else 0
        return self.low.size * (self.bits + value_bits) + patches


def gap_codes(places: NDArray[np.intp], bits: int, high_bits: int) -> Gaps:
    """Ascending places as codes of these widths.

    >>> found = gap_codes(np.array([0, 3, 40]), 4, 2)
    >>> found.low.tolist(), found.patched.tolist(), found.high.tolist(), found.back
    ([0, 2, 4], [2], [2], 1)
    """
    # 1. Gaps too wide even with a patch end at a zero that is stored as a value.
    places = with_stops(places.astype(np.int64), 1 << (bits + high_bits))

    # 2. A step is at least 1, so no sum of steps is place 0. Where that holds a value,
    # all sums are one more and `back` is taken off.
    back = int(places[0] == 0)
    gaps = np.diff(places, prepend=-back) - 1

    # 3. The low bits of all gaps, and the high bits of the few that have any, with their
    # distances.
    high = gaps >> bits
    patched = np.flatnonzero(high)
    if patched.size:
        # A patch that changes nothing wherever the next would be too far away.
        patched = with_stops(patched, 1 << (8 - high_bits))
    return Gaps(
        bits, high_bits, places, gaps & ((1 << bits) - 1), patched, high[patched], back
    )


def best_codes(places: NDArray[np.intp], value_bits: float) -> Gaps:
    """The codes of fewest bits, if a value takes `value_bits`."""
    # A generator: the codes of a large weight are hundreds of megabytes, so only two are in memory at once.
    candidates = (
        gap_codes(places, *widths)
        for widths in itertools.product(_WIDTHS, _HIGH_WIDTHS)
    )
    return min(candidates, key=lambda codes: codes.cost(value_bits))


def patched_places(parts: Parts, gaps: Gaps) -> str:
    """The nodes that sum the codes up. Steps stay in one or two bytes each until then: loading takes memory."""
    dtype = np.dtype(np.uint8 if gaps.bits + gaps.high_bits < 8 else np.uint16)
    table = (code_table(gaps.bits).squeeze() + 1).astype(dtype)
    # High bits and distance share a byte, so that a patch costs one byte and two tables
    # of 256 entries take it apart.
    packed = byte_indices(parts, "gaps", pack_bits(gaps.low, gaps.bits))
    steps = look_up(
        parts,
        parts.awaited(parts.share(f"gap_steps.{gaps.bits}_{dtype}", table)),
        packed,
        "low_steps",
        gaps.bits,
        gaps.low.shape,
    )
    if gaps.patched.size:
        steps = _patched(parts, gaps, steps, dtype)
    return _summed(
        parts,
        parts.node("Cast", [steps], "steps", {"to": onnx.TensorProto.INT32}),
        "places",
        gaps.back,
    )


def _patched(parts: Parts, gaps: Gaps, steps: str, dtype: np.dtype[Any]) -> str:
    """The steps with the high parts added; of a patch the low bits of its byte are the distance, less one."""
    width, back, byte = 8 - gaps.high_bits, int(gaps.patched[0] == 0), np.arange(256)
    distances = np.diff(gaps.patched, prepend=-back) - 1
    packed = byte_indices(
        parts, "patches", (distances | (gaps.high << width)).astype(np.uint8)
    )
    # The places of patches are summed up from distances as the places of values are from
    # gaps.
    skips = parts.table(f"patch_skips.{width}", (byte & ((1 << width) - 1)) + 1)
    patched = _summed(
        parts, parts.node("Gather", [skips, packed], "skipped"), "patched", back
    )
    highs = parts.table(
        f"patch_highs.{width}_{gaps.bits}", (byte >> width) << gaps.bits
    )
    high = parts.node("Gather", [highs, packed], "patch_high")
    # Added as int32, since ONNX's Add of small integers came with opset 14; the sum fits
    # the type of the steps again.
    low = parts.node(
        "Cast",
        [parts.node("Gather", [steps, patched], "patch_low")],
        "patch_low_i",
        {"to": onnx.TensorProto.INT32},
    )
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    whole = parts.node(
        "Cast",
        [parts.node("Add", [low, high], "patched_steps_i")],
        "patched_steps",
        {"to": kind},
    )
    return parts.node(
        "ScatterElements", [steps, patched, whole], "all_steps", {"axis": 0}
    )


def _summed(parts: Parts, steps: str, output: str, back: int) -> str:
    """cumsum(steps) - back."""
    axis = parts.share("axis", np.array(0, np.int64))
    if not back:
        return parts.node("CumSum", [steps, axis], output)
    sums = parts.node("CumSum", [steps, axis], f"{output}_1")
    return parts.node("Sub", [sums, parts.share("one", np.array(1, np.int32))], output)
