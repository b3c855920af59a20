"""How the non-zero values of a weight are stored: what each kind of value must know and do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.onnx_export.storage.codecs.parts import Parts

Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """A tensor to store: its array, and the axis of its output channels (-1: the last one).

    `zero`: of quantized weights what stands for zero, an array that broadcasts; None: all bits 0.
    """

    array: Array
    channel_axis: int = 0
    zero: Array | None = None


@dataclass(frozen=True)
class Quantized:
    """A weight as it will be stored: `codes` (any type, the weight's shape), and `scale` that broadcasts, or None.

    The weight that the file gives is dtype(codes * scale * unit), computed in double precision; `scale` holds
    integers, and `unit` is a power of two. Entries of `codes` whose bits are all 0 are the zeros or, with `background`
    (codes that broadcast), entries equal to that.
    """

    codes: Array
    dtype: np.dtype[Any]
    scale: Array | None = None
    background: Array | None = None
    unit: float = 1.0

    def places(self) -> NDArray[np.intp]:
        """Linear positions, in C order, of the entries that are no zeros: -0.0 is a value."""
        if self.background is not None:
            return np.flatnonzero((self.codes != self.background).reshape(-1))
        # As unsigned integers of the same width: only all bits 0 is a zero, so that -0.0
        # keeps its sign.
        flat = np.ascontiguousarray(self.codes).reshape(-1)
        return np.flatnonzero(flat.view(f"u{flat.dtype.itemsize}"))

    @property
    def zero(self) -> Array | None:
        """What all zeros look like, [1]; None where that depends on the channel."""
        if self.background is None:
            return np.zeros(1, self.dtype)
        # Zero points of several channels may still all be one number.
        first = self.background.reshape(-1)[:1]
        return first.astype(self.dtype) if (self.background == first[0]).all() else None

    def decoded(self) -> Array:
        """The array that the file must give."""
        if self.scale is None:
            return self.codes.astype(self.dtype, copy=False)
        # Rounded once: both factors have few enough bits for the product to be exact.
        product = self.codes.astype(np.float64) * (self.scale * self.unit)
        return product.astype(self.dtype)


@dataclass(frozen=True)
class ValueKind:
    """A kind of value: a name for users, and functions.

    `refuses(weight)`: the reason why it cannot store this weight, or None. `quantize(weight)`: what it stores.
    `store(parts, codes)`: put an array of codes into the file; returns the name of the same array in the graph.
    `bits`: about the size of one value of a float32 weight.
    """

    name: str
    lossless: bool
    refuses: Callable[[Weight], str | None]
    quantize: Callable[[Weight], Quantized]
    store: Callable[[Parts, Array], str]
    bits: float


def not_float32(weight: Weight) -> str | None:
    """The reason to refuse every type but float32."""
    return (
        None
        if weight.array.dtype == np.float32
        else f"it is {weight.array.dtype}, not float32"
    )


def bits_of(kind: ValueKind, stored: Quantized) -> float:
    """About the bits of one value: other types than float32 keep their own."""
    return (
        kind.bits if stored.dtype == np.float32 else 8.0 * stored.codes.dtype.itemsize
    )
