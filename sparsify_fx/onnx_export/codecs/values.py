"""How the non-zero values of a weight are stored: what each kind of value must know and do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.onnx_export.codecs.parts import Parts

Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """A float tensor to store: its array, and the axis of its output channels (-1: the last one)."""

    array: Array
    channel_axis: int = 0


@dataclass(frozen=True)
class Quantised:
    """A weight as it will be stored: `codes` (any type, the weight's shape), and `scale` that broadcasts, or None.

    The weight that the file gives is dtype(codes) * scale; entries of `codes` whose bits are all 0 are the zeros.
    """

    codes: Array
    dtype: np.dtype[Any]
    scale: Array | None = None

    def decoded(self) -> Array:
        """The array that the file must give."""
        array = self.codes.astype(self.dtype, copy=False)
        return array if self.scale is None else array * self.scale


@dataclass(frozen=True)
class ValueKind:
    """A kind of value: a name for users, and functions.

    `refuses(weight)`: the reason why it cannot store this weight, or None. `quantise(weight)`: what it stores.
    `store(parts, codes)`: put an array of codes into the file; returns the name of the same as floats.
    `bits`: about the size of one value.
    """

    name: str
    lossless: bool
    refuses: Callable[[Weight], str | None]
    quantise: Callable[[Weight], Quantised]
    store: Callable[[Parts, Array], str]
    bits: float


def not_float32(weight: Weight) -> str | None:
    """The reason to refuse every type but float32."""
    return None if weight.array.dtype == np.float32 else f"it is {weight.array.dtype}, not float32"
