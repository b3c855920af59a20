"""Values fp32-packed: lossless, 24 bits of sign and mantissa, and the few exponents as codes of 1, 2 or 4 bits."""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_export.storage.codecs.bits import (
    byte_indices,
    code_table,
    look_up,
    pack_bits,
)
from sparsify_fx.onnx_export.storage.codecs.parts import Parts
from sparsify_fx.onnx_export.storage.codecs.values import (
    Array,
    Quantized,
    ValueKind,
    Weight,
    not_float32,
)

_SMALLEST = 25
"""Below this biased exponent the scale 2**(e - 150) itself would be a denormal."""


def _refuses(weight: Weight) -> str | None:
    """Denormals, NaN and Inf have no hidden bit; more than 16 exponents would save nothing."""
    if (reason := not_float32(weight)) is not None:
        return reason
    # The scale of a value is 2**(e - 150), by which an integer of 24 bits is multiplied:
    # both have to be normal numbers.
    exponents = _exponents(weight.array)
    used = np.unique(exponents)
    if ((used > 0) & (used < _SMALLEST)).any() or 255 in used:
        return "it holds NaN, Inf or values below 2e-31"
    if 0 in used and weight.array[exponents == 0].any():
        return "it holds denormal values"
    return (
        f"its values have {used.size} different exponents, more than 16"
        if used.size > 16
        else None
    )


def _exponents(values: Array) -> Array:
    exponents: Array = (values.view(np.uint32) >> 23) & 255
    return exponents


def _quantize(weight: Weight) -> Quantized:
    return Quantized(weight.array, weight.array.dtype)


def _store(parts: Parts, vector: Array) -> str:
    """value = (high + low) * 2**(e - 150), every step exact; zeros have scale 0.

    Integers up to the mantissa, then double precision: converters to float16 leave both alone. In float32 they would
    convert the arithmetic too, whose steps float16 cannot hold, and the weights would be wrong without a word.
    """
    raw, exponents = vector.view(np.uint32), _exponents(vector)
    used = np.unique(exponents)
    bits = next(bits for bits in (1, 2, 4) if used.size <= 2**bits)
    # Unused entries of the table stay 0: no code refers to them.
    table = np.zeros(2**bits, np.float64)
    table[: used.size] = np.where(
        used == 0, 0.0, 2.0 ** (used.astype(np.float64) - 150)
    )
    codes = byte_indices(
        parts,
        "exponents",
        pack_bits(np.searchsorted(used, exponents).reshape(-1), bits),
    )
    # The 256 possible bytes become scales first, so that each byte of the weight is one
    # lookup.
    rows = parts.table(f"codes_{bits}", code_table(bits))
    scales = parts.node("Gather", [parts.own("scales", table), rows], "scale_of")
    scale = look_up(parts, scales, codes, "scale", bits, vector.shape)
    wide = parts.node(
        "Cast", [_mantissas(parts, raw)], "mantissa_d", {"to": onnx.TensorProto.DOUBLE}
    )
    product = parts.node("Mul", [wide, scale], "values_d")
    return parts.node("Cast", [product], "values_f", {"to": onnx.TensorProto.FLOAT})


def _mantissas(parts: Parts, raw: Array) -> str:
    """sign * (2**23 + m) for mantissas m, as int32.

    m for positive values and -1 - m for negative ones, in two's complement, is a signed byte * 2**16 + 16 bits without
    a sign. A table gives the first part of each byte, and 2**23 or 1 - 2**23 with it.
    """
    # -1 - m and not -m, which would lose the sign where m = 0: of powers of two, and of
    # -0.0.
    signed = np.where(
        raw >> 31,
        -1 - (raw & 0x7FFFFF).astype(np.int64),
        (raw & 0x7FFFFF).astype(np.int64),
    )
    byte = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int64)
    # The hidden bit and the sign's correction come with the table, so that one Add gives
    # the mantissa.
    firsts = (byte << 16) + np.where(byte < 0, 1 - 2**23, 2**23)
    table = parts.awaited(parts.share("firsts", firsts.astype(np.int32)))
    indices = byte_indices(parts, "high", (signed >> 16).astype(np.int8).view(np.uint8))
    low = parts.own("low", (signed & 0xFFFF).astype(np.uint16))
    lows = parts.node("Cast", [low], "low_i", {"to": onnx.TensorProto.INT32})
    return parts.node(
        "Add", [parts.node("Gather", [table, indices], "high_m"), lows], "mantissa"
    )


FP32_PACKED = ValueKind("fp32-packed", True, _refuses, _quantize, _store, 26)
"""3 bytes and 1, 2 or 4 bits a value. Weights that were pruned by magnitude have very few exponents."""
