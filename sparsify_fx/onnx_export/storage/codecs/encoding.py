"""How the places of a weight's zeros are stored: what each encoding must know and do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.storage.codecs.values import Array, Quantized, ValueKind


@dataclass(frozen=True)
class Encoding:
    """An encoding: a name for users, the first opset whose operators rebuild it, and functions.

    `refuses(stored, values)`: the reason why it cannot store these codes as this kind of values, or None.
    `encode(stored, values)`: the nodes and tensors that rebuild the weight.
    """

    name: str
    opset: int
    refuses: Callable[[Quantized, ValueKind], str | None]
    encode: Callable[[Quantized, ValueKind], Parts]


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


def shaped(parts: Parts, flat: str, stored: Quantized) -> None:
    """Give the vector `flat` the weight's shape and scale, as the value named `OUTPUT`."""
    shape = stored.codes.shape
    name = parts.share("shape." + "_".join(map(str, shape)), np.array(shape, np.int64))
    if stored.scale is None:
        parts.node("Reshape", [flat, name], OUTPUT)
    else:
        # After the Reshape, so that the scale of each channel broadcasts.
        scale = parts.own("channel_scale", stored.scale)
        parts.node(
            "Mul", [parts.node("Reshape", [flat, name], "codes_f"), scale], OUTPUT
        )


def entropy_bytes(size: int, nonzeros: int, value_bits: float) -> float:
    """size * H(nonzeros / size) / 8 + nonzeros * value_bits / 8: no code of independent zeros can be smaller.

    >>> round(entropy_bytes(1000, 100, 32))
    459
    """
    density = nonzeros / size if size else 0.0
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    return (size * entropy + nonzeros * value_bits) / 8
