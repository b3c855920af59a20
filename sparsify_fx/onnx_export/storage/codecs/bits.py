"""Codes of 1, 2, 4 or 8 bits in bytes, looked up by standard operators; places as steps of bounded width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.storage.codecs.parts import Parts

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


def with_stops(places: Places, widest: int) -> Places:
    """Ascending places and as few more as it takes for no two to be more than `widest` apart, the first from -1.

    >>> with_stops(np.array([0, 3, 40]), 16).tolist()
    [0, 3, 19, 35, 40]
    """
    steps = np.diff(places, prepend=-1)
    # How many stops each step needs so that none of its parts is wider.
    extra = (steps - 1) // widest
    if not extra.any():
        return places
    # All steps are `widest` but the last part of each, which takes what is left.
    ends = np.cumsum(extra + 1) - 1
    steps_all = np.full(int(ends[-1]) + 1, widest, np.int64)
    steps_all[ends] = steps - extra * widest
    found: Places = np.cumsum(steps_all) - 1
    return found


def pack_bits(codes: NDArray[Any], bits: int) -> Bytes:
    """Codes below 2**bits, `8 // bits` to a byte, the first in the lowest bits; the last byte is filled with zeros.

    >>> pack_bits(np.array([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    per = 8 // bits
    # Whole bytes: what stands in the rest of the last one is cut off by `look_up`.
    padded = np.zeros(-(-len(codes) // per) * per, np.uint8)
    padded[: len(codes)] = codes
    columns = padded.reshape(-1, per) << (bits * np.arange(per, dtype=np.uint8))
    packed: Bytes = np.bitwise_or.reduce(columns, axis=1)
    return packed


def code_table(bits: int) -> NDArray[np.int64]:
    """[256, 8 // bits]: the codes in every byte.

    >>> code_table(4)[33].tolist()
    [1, 2]
    """
    # Codes are looked up: the BitShift of ONNX takes unsigned integers alone, and would
    # need a node for each code of a byte.
    codes: NDArray[np.int64] = (
        np.arange(256)[:, None] >> (bits * np.arange(8 // bits))
    ) & ((1 << bits) - 1)
    return codes


def byte_indices(parts: Parts, name: str, packed: Bytes) -> str:
    """Store the bytes; the value holds them as int32, ready for `look_up`."""
    stored = parts.own(name, packed)
    return parts.node("Cast", [stored], f"{name}_i", {"to": onnx.TensorProto.INT32})


def look_up(
    parts: Parts,
    table: str,
    indices: str,
    output: str,
    bits: int,
    shape: tuple[int, ...],
) -> str:
    """The entries of `table` [256, 8 // bits] for all codes in the bytes `indices`, as an array of this shape.

    A table of one code a byte is a vector [256]; what the padding of the last byte gives is cut off.
    """
    per = 8 // bits
    # A byte is a code already, and the table gives its entries in the right shape.
    if per == 1:
        return parts.node("Gather", [table, indices], output)
    rows, size = (
        parts.node("Gather", [table, indices], f"{output}_rows"),
        math.prod(shape),
    )
    # The last byte is full, so nothing has to be cut off.
    if size % per == 0:
        return parts.node("Reshape", [rows, _any_rows(parts, shape)], output)
    padded = parts.node(
        "Reshape", [rows, _any_rows(parts, (size,))], f"{output}_padded"
    )
    # The size is the weight's own constant, 0 one that all share.
    start, end = (
        parts.share("start", np.zeros(1, np.int64)),
        parts.own(f"{output}_size", np.array([size], np.int64)),
    )
    # A vector is finished here; a Reshape more would be folded, but stands in the file.
    if len(shape) == 1:
        return parts.node("Slice", [padded, start, end], output)
    vector = parts.node("Slice", [padded, start, end], f"{output}_vector")
    return parts.node("Reshape", [vector, _any_rows(parts, shape)], output)


def _any_rows(parts: Parts, shape: tuple[int, ...]) -> str:
    """The target of a Reshape to `shape` whatever its longest side is: one constant for weights of many sizes."""
    # The longest side is the one that differs most often between weights; written as -1
    # it is worked out by the Reshape.
    free = int(np.argmax(shape))
    sides = [-1 if axis == free else side for axis, side in enumerate(shape)]
    name = (
        "one_axis"
        if len(shape) == 1
        else "rows." + "_".join(map(str, sides)).replace("-1", "n")
    )
    return parts.share(name, np.array(sides, np.int64))
