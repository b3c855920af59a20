"""Gap codes: the non-zeros of a tensor, and how far each lies from the one before."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def encode_gaps(
    dense: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Values and gaps of the non-zeros of `dense` in row-major order, 5 bytes each.

    `position[i] = position[i - 1] + gaps[i] + 1`, from `position[-1] = -1`. Where more than 255 zeros lie between two
    non-zeros, a value of zero bridges 256 places. An all-zero tensor keeps one zero, since nothing can be empty. A zero
    with a sign is a value like any other, so every bit comes back.

    >>> values, gaps = encode_gaps(np.array([[0, 0, 5], [0, 7, 0]], np.float32))
    >>> values.tolist(), gaps.tolist()
    ([5.0, 7.0], [2, 1])
    """
    flat = np.ascontiguousarray(dense).ravel()
    # Bits, not values: -0.0 is stored.
    positions = np.flatnonzero(flat.view(np.uint32))
    steps = np.diff(positions, prepend=-1)
    # A gap is one byte, so wider ones take several: each bridge is a stored zero 256
    # places on.
    bridges = (steps - 1) // 256
    places = np.cumsum(bridges + 1) - 1
    count = int(places[-1]) + 1 if len(places) else 1
    values, gaps = np.zeros(count, np.float32), np.full(count, 255, np.uint8)
    values[places], gaps[places] = flat[positions], steps - 1 - 256 * bridges
    # The one value of an all-zero tensor stands at place 0.
    if not len(places):
        gaps[0] = 0
    return values, gaps


def decode_gaps(
    values: NDArray[np.float32], gaps: NDArray[np.uint8], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The dense tensor again.

    >>> decode_gaps(np.float32([5, 7]), np.uint8([2, 1]), (2, 3)).tolist()
    [[0.0, 0.0, 5.0], [0.0, 7.0, 0.0]]
    """
    dense = np.zeros(int(np.prod(shape)), np.float32)
    dense[np.cumsum(gaps.astype(np.int64) + 1) - 1] = values
    return dense.reshape(shape)


def packed_weight(name: str, dense: NDArray[np.float32]) -> list[onnx.TensorProto]:
    """The two initializers of a sparse operator: `name.values` and `name.gaps`."""
    values, gaps = encode_gaps(dense)
    return [
        numpy_helper.from_array(values, f"{name}.values"),
        numpy_helper.from_array(gaps, f"{name}.gaps"),
    ]
