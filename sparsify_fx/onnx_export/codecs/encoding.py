"""How the places of a weight's zeros are stored: what each encoding must know and do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.onnx_export.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.codecs.values import Array, Quantised, ValueKind


@dataclass(frozen=True)
class Encoding:
    """An encoding: a name for users, the first opset whose operators rebuild it, and functions.

    `refuses(stored, values)`: the reason why it cannot store these codes as this kind of values, or None.
    `encode(stored, values)`: the nodes and tensors that rebuild the weight.
    """

    name: str
    opset: int
    refuses: Callable[[Quantised, ValueKind], str | None]
    encode: Callable[[Quantised, ValueKind], Parts]


def nonzero_places(codes: Array) -> NDArray[np.intp]:
    """Linear positions, in C order, of the entries that have a bit set: -0.0 is a value."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    return np.flatnonzero(flat.view(f"u{flat.dtype.itemsize}"))


def with_zeros(parts: Parts, held: str, vector: str, dtype: np.dtype[Any]) -> str:
    """For each 1 in the int32 vector `held` the next value of `vector`, for each 0 a zero; returns its name."""
    axis = parts.share("axis", np.array(0, np.int64))
    rank = parts.node("Mul", [parts.node("CumSum", [held, axis], "count"), held], "rank")
    nought = parts.share(f"nought.{dtype}", np.zeros(1, dtype))
    padded = parts.node("Concat", [nought, vector], "padded", {"axis": 0})
    return parts.node("Gather", [padded, rank], "updates")


def shaped(parts: Parts, flat: str, stored: Quantised) -> None:
    """Give the vector `flat` the weight's shape and scale, as the value named `OUTPUT`."""
    shape = stored.codes.shape
    name = parts.share("shape." + "_".join(map(str, shape)), np.array(shape, np.int64))
    if stored.scale is None:
        parts.node("Reshape", [flat, name], OUTPUT)
    else:
        scale = parts.own("channel_scale", stored.scale)
        parts.node("Mul", [parts.node("Reshape", [flat, name], "codes_f"), scale], OUTPUT)


def entropy_bytes(size: int, nonzeros: int, value_bits: float) -> float:
    """size * H(nonzeros / size) / 8 + nonzeros * value_bits / 8: no code of independent zeros can be smaller.

    >>> round(entropy_bytes(1000, 100, 32))
    459
    """
    density = nonzeros / size if size else 0.0
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    return (size * entropy + nonzeros * value_bits) / 8
