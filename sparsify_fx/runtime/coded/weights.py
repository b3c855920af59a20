"""Weights in bytes: values of less than 32 bits, and gaps as codes of a few bits each (csrc/coded.cpp reads them)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.runtime.coded.gaps import (
    from_bits,
    places_of,
    to_bits,
    write_places,
)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FORMAT = 2
"""The newest layout of weights: 1 has float32 values and a byte for each gap (`encode.py`), 2 what is written here."""

KINDS = {"fp16": 1, "int8": 2, "fp32-packed": 3}
"""Kinds of values, and their numbers in the file."""

# Format, kind, bits of a gap's code, a detail of the kind, power of two of int8's scales, nothing, number of values.
_HEADER = struct.Struct("<BBBBhHQ")
_EXPONENTS = 16


@dataclass(frozen=True)
class Codes:
    """Values of a weight before they are bytes: `kind`, and `codes` of the weight's shape, all bits 0 for zeros.

    fp16 has float16 codes, fp32-packed the float32 values themselves. int8 has int8 codes, and an integer of `scale`
    for each channel, times 2**`unit`; `last`: channels lie along the last axis, not the first.

    >>> Codes("fp16", np.float16([[0, 2]])).kind
    'fp16'
    """

    kind: str
    codes: NDArray[Any]
    scale: NDArray[np.int32] | None = None
    unit: int = 0
    last: bool = False


def encode_codes(weight: Codes) -> tuple[Bytes, Bytes]:
    """The two vectors of a sparse operator's weight: values with their header, and gaps.

    >>> values, gaps = encode_codes(Codes("fp16", np.float16([[0, 2], [0, -0.5]])))
    >>> values.size, gaps.size
    (20, 1)
    >>> decode_codes(values, gaps, (2, 2)).tolist()
    [[0.0, 2.0], [0.0, -0.5]]
    """
    flat = np.ascontiguousarray(weight.codes).reshape(-1)
    # Bits, not values: -0.0 is stored.
    places = np.flatnonzero(flat.view(f"u{flat.dtype.itemsize}"))
    gaps, gap_bits = write_places(places)
    kept, detail = flat[places], int(weight.last)
    if weight.kind == "fp32-packed":
        payload, detail = _packed(kept)
    else:
        scale = np.zeros(0, np.int32) if weight.scale is None else weight.scale
        payload = scale.astype("<i4").tobytes() + kept.tobytes()
    header = _HEADER.pack(
        FORMAT, KINDS[weight.kind], gap_bits, detail, weight.unit, 0, places.size
    )
    return np.frombuffer(header + payload, np.uint8), gaps


def decode_codes(values: Bytes, gaps: Bytes, shape: tuple[int, ...]) -> Floats:
    """The dense tensor, with the bits that the kernels compute with; ValueError for what does not fit together."""
    data = values.tobytes()
    if len(data) < _HEADER.size:
        raise ValueError("the values are shorter than their header")
    form, kind, gap_bits, detail, unit, _, count = _HEADER.unpack_from(data)
    if form != FORMAT or kind not in KINDS.values():
        raise ValueError(
            f"the values have format {form} and kind {kind}, which this version of sparsify_fx does not know; "
            "install a newer one"
        )
    if not 1 <= gap_bits <= 8 or count > len(data) or min(shape, default=0) < 1:
        raise ValueError(
            f"{count} values with gaps of {gap_bits} bits for the sizes {list(shape)}, in {len(data)} bytes"
        )
    places = places_of(gaps, gap_bits, count)
    # Before there is a tensor of this shape: a damaged one may be of any size.
    size = int(np.prod(shape, dtype=object))
    if count and places[-1] >= size:
        raise ValueError("the gaps lead beyond the end of weight_shape")
    payload = np.frombuffer(data, np.uint8, offset=_HEADER.size)
    read = _DECODERS[kind]
    found = read(payload, places, _Layout(shape, detail, unit))
    dense = np.zeros(size, np.float32)
    dense[places] = found
    return dense.reshape(shape)


def kind_of(values: NDArray[Any]) -> str:
    """The kind of values of a sparse operator's weight, by the tensor that holds them.

    >>> kind_of(np.zeros(3, np.float32))
    'fp32'
    """
    if values.dtype == np.float32:
        return "fp32"
    number = int(values[1]) if values.size > 1 else 0
    known = {number: name for name, number in KINDS.items()}
    return known.get(number, f"kind {number}")


@dataclass(frozen=True)
class _Layout:
    """What a kind needs beside its bytes."""

    shape: tuple[int, ...]
    detail: int
    unit: int


def _half(payload: Bytes, places: NDArray[np.int64], layout: _Layout) -> Floats:
    _check_bytes(payload, 2 * places.size)
    return payload.view("<f2").astype(np.float32)


def _int8(payload: Bytes, places: NDArray[np.int64], layout: _Layout) -> Floats:
    """float32(code * scale * 2**unit), computed in double precision."""
    channels = layout.shape[-1 if layout.detail else 0]
    _check_bytes(payload, 4 * channels + places.size)
    scales = payload[: 4 * channels].view("<i4").astype(np.float64)
    inner = int(np.prod(layout.shape)) // channels
    channel = places % channels if layout.detail else places // inner
    product = (
        payload[4 * channels :].view(np.int8) * np.ldexp(scales, layout.unit)[channel]
    )
    return product.astype(np.float32)


def _packed(values: Floats) -> tuple[bytes, int]:
    """A table of exponents, sign and mantissa of each value in three bytes, and codes of the exponents; their bits."""
    raw = values.view(np.uint32)
    used, codes = np.unique((raw >> 23) & 255, return_inverse=True)
    bits = next(bits for bits in (1, 2, 4) if used.size <= 2**bits)
    table = np.zeros(_EXPONENTS, np.uint8)
    table[: used.size] = used
    # The exponent's eight bits make room for the sign: 24 bits are left.
    rest = (raw & 0x7FFFFF) | (raw >> 31 << 23)
    three = rest.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return table.tobytes() + three.tobytes() + to_bits(codes, bits).tobytes(), bits


def _unpacked(payload: Bytes, places: NDArray[np.int64], layout: _Layout) -> Floats:
    count, bits = places.size, layout.detail
    if bits not in (1, 2, 4):
        raise ValueError(f"codes of exponents have {bits} bits, not 1, 2 or 4")
    _check_bytes(payload, _EXPONENTS + 3 * count + (count * bits + 7) // 8)
    three = payload[_EXPONENTS : _EXPONENTS + 3 * count].reshape(-1, 3)
    rest = three.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    codes = from_bits(payload[_EXPONENTS + 3 * count :], bits, count)
    exponents = payload[:_EXPONENTS].astype(np.uint32)[codes]
    raw = (rest >> 23 << 31) | (exponents << 23) | (rest & 0x7FFFFF)
    found: Floats = raw.astype(np.uint32).view(np.float32)
    return found


def _check_bytes(payload: Bytes, expected: int) -> None:
    if payload.size != expected:
        raise ValueError(f"the values have {payload.size} bytes, not {expected}")


_DECODERS: dict[int, Callable[[Bytes, NDArray[np.int64], _Layout], Floats]] = {
    KINDS["fp16"]: _half,
    KINDS["int8"]: _int8,
    KINDS["fp32-packed"]: _unpacked,
}
