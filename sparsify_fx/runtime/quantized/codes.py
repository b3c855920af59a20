"""The weight of a quantized layer: codes in 8 bits, and the float32 values that a DequantizeLinear makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsify_fx.runtime.coded.weights import Codes

Array = NDArray[Any]
Floats = NDArray[np.float32]

# A scale has 24 bits, and an integer of the format 31: what scales of one weight may lie apart.
_MOST_SCALE = 2**31


@dataclass(frozen=True)
class Scale:
    """Scales and zero points of a weight: a number for all of it, or one for each channel along `axis`.

    >>> scale = Scale(np.float32([0.5, 2]), np.uint8([3, 4]), 0)
    >>> scale.values_of(np.uint8([[3, 5], [3, 4]])).tolist()
    [[0.0, 1.0], [-2.0, 0.0]]
    """

    scale: Floats
    zero_point: Array
    axis: int

    def values_of(self, codes: Array) -> Floats:
        """(code - zero point) · scale, with the bits that onnxruntime gives; ValueError for scales that do not fit."""
        steps = codes.astype(np.int32) - self._along(self.zero_point, codes.ndim)
        values = steps.astype(np.float32) * self._along(self.scale, codes.ndim)
        # A scale below zero would make -0.0 of what is left out.
        return np.where(steps == 0, np.float32(0), values)

    def codes_of(self, values: Floats) -> Array:
        """The codes that give these values; ValueError where none do.

        >>> Scale(np.float32(0.1), np.int8(0), 1).codes_of(np.float32([[0.3, -0.2]])).tolist()
        [[3, -2]]
        """
        scale = self._along(self.scale, values.ndim).astype(np.float64)
        if not (np.isfinite(scale).all() and scale.all() and np.isfinite(values).all()):
            raise ValueError("a scale is zero, or something is no number")
        steps = np.rint(values / scale) + self._along(self.zero_point, values.ndim)
        limits = np.iinfo(self.zero_point.dtype)
        if steps.min(initial=0) < limits.min or steps.max(initial=0) > limits.max:
            raise ValueError(f"codes are beyond {limits.min} to {limits.max}")
        return steps.astype(self.zero_point.dtype)

    def _along(self, given: Array, rank: int) -> Array:
        """One number for each channel, as an array that broadcasts to the weight."""
        if given.size == 1:
            return given.reshape((1,) * rank)
        shape = [1] * rank
        shape[self.axis] = given.size
        return given.reshape(shape)

    def coded(self, codes: Array) -> Codes | None:
        """The weight in a form that the kernels decode to the same bits; None where there is no room for it.

        That is where a code lies more than a byte from its zero point, where scales of one weight differ by more than
        2**7, or run along an axis that is neither the first nor the last.
        """
        rank = codes.ndim
        steps = codes.astype(np.int32) - self._along(self.zero_point, rank)
        axis = 0 if self.scale.size == 1 else self.axis % rank
        if steps.min(initial=0) < -128 or steps.max(initial=0) > 127:
            return None
        if axis not in (0, rank - 1):
            return None
        whole = np.broadcast_to(self.scale.reshape(-1), (codes.shape[axis],))
        mantissas, exponents = np.frexp(whole.astype(np.float64))
        # The smallest exponent decides: a float32 is an integer times 2**(exponent - 24).
        unit = int(exponents.min()) - 24
        scales = np.ldexp(mantissas, exponents - unit)
        if np.abs(scales).max() >= _MOST_SCALE:
            return None
        return Codes(
            "int8",
            steps.astype(np.int8),
            scales.astype(np.int32),
            unit,
            last=axis == rank - 1 and axis > 0,
        )
