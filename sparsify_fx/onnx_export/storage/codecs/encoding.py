"""How the places of a weight's zeros are stored: what each encoding must know and do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.storage.codecs.values import Array, Quantized, ValueKind


@dataclass(frozen=True)
class Encoding:
    """An encoding: a name for users, the first opset whose operators rebuild it, and functions.

    `refuses(stored, values)`: the reason why it cannot store these codes as this kind of values, or None.
    `encode(stored, values, operators)`: the nodes and tensors that rebuild the weight, in the fastest form that these
    operators allow; where they are too few for any form, it has others.
    """

    name: str
    opset: int
    refuses: Callable[[Quantized, ValueKind], str | None]
    encode: Callable[[Quantized, ValueKind, frozenset[str]], Parts]


def with_zeros(parts: Parts, held: str, vector: str, zero: Array) -> str:
    """For each 1 in the int32 vector `held` the next value of `vector`, for each 0 the one of `zero`; its name."""
    axis = parts.share("axis", np.array(0, np.int64))
    # count * held is 0 for zeros and the number of the value, from 1, for values; so
    # entry 0 of the table below is the zero.
    rank = parts.node(
        "Mul", [parts.node("CumSum", [held, axis], "count"), held], "rank"
    )
    which = "" if not zero.any() else f"_{zero.item()}"
    nought = parts.share(f"nought.{zero.dtype}{which}", zero)
    padded = parts.node("Concat", [nought, vector], "padded", {"axis": 0})
    return parts.node("Gather", [padded, rank], "updates")


def reshaped(parts: Parts, flat: str, shape: tuple[int, ...], output: str) -> str:
    """Give the vector `flat` a shape."""
    name = parts.share("shape." + "_".join(map(str, shape)), np.array(shape, np.int64))
    return parts.node("Reshape", [flat, name], output)


def as_floats(
    parts: Parts, codes: str, stored: Quantized, scale: str | None, output: str
) -> str:
    """dtype(codes * scale) for codes that are no floats of the weight's type yet.

    In double precision, which converters to float16 leave as it is: in float32 they would make float16 of the
    arithmetic too, and its results wrong without a word.
    """
    if scale is not None:
        wide = parts.node("Cast", [codes], "codes_d", {"to": onnx.TensorProto.DOUBLE})
        codes = parts.node("Mul", [wide, scale], "scaled_d")
    return parts.node("Cast", [codes], output, {"to": onnx.TensorProto.FLOAT})


def scale_of(parts: Parts, stored: Quantized, *, flat: bool = False) -> str | None:
    """The scale of each channel in double precision, from integers that no converter touches."""
    if stored.scale is None:
        return None
    scale = stored.scale.reshape(-1) if flat else stored.scale
    unit = parts.share(
        f"unit.{round(math.log2(stored.unit))}", np.array(stored.unit, np.float64)
    )
    wide = parts.node(
        "Cast",
        [parts.own("channel_scale", scale)],
        "channel_d",
        {"to": onnx.TensorProto.DOUBLE},
    )
    return parts.node("Mul", [wide, unit], "scale_d")


def shaped(parts: Parts, flat: str, stored: Quantized) -> None:
    """Give the vector `flat` of codes the weight's shape, type and scale, as the value named `OUTPUT`."""
    shape = stored.codes.shape
    if stored.codes.dtype == stored.dtype and stored.scale is None:
        reshaped(parts, flat, shape, OUTPUT)
        return
    # The shape first: codes are smaller than what they become, and the scale of each
    # channel broadcasts to it.
    codes = reshaped(parts, flat, shape, "codes_s")
    as_floats(parts, codes, stored, scale_of(parts, stored), OUTPUT)


def entropy_bytes(size: int, nonzeros: int, value_bits: float) -> float:
    """size * H(nonzeros / size) / 8 + nonzeros * value_bits / 8: no code of independent zeros can be smaller.

    >>> round(entropy_bytes(1000, 100, 32))
    459
    """
    density = nonzeros / size if size else 0.0
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    return (size * entropy + nonzeros * value_bits) / 8
