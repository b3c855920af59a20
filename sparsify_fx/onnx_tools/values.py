"""How far two outputs of onnxruntime are apart: tensors of numbers and strings, sequences, maps, and none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-3
"""Outputs smaller than this are measured as if they were this large: float32 rounding alone leaves 1e-7."""

_TEXTS = "OUST"
"""numpy's kinds of arrays of strings."""

Difference = tuple[float, float]
"""Absolute, and relative to the largest |entry| of the expected tensor or to `FLOOR`."""


class UnlikeError(Exception):
    """Two values between which there is no distance: other types, shapes, texts, keys, or NaN elsewhere."""


def measure_difference(expected: Any, got: Any) -> Difference:
    """The largest differences between two values, sequences entry by entry and maps key by key.

    Raises UnlikeError, which says how they differ, where no number can.

    >>> measure_difference([np.float32([2, 4])], [np.float32([2, 4.25])])
    (0.25, 0.0625)
    """
    found = [_between(a, b) for a, b in _tensors(expected, got)]
    return max((a for a, _ in found), default=0.0), max(
        (r for _, r in found), default=0.0
    )


def _tensors(expected: Any, got: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The pairs of tensors that two values hold."""
    # Maps are compared by key: their order means nothing.
    if isinstance(expected, dict) and isinstance(got, dict):
        if expected.keys() != got.keys():
            raise UnlikeError(
                f"the keys differ: {_short(got.keys())}, expected {_short(expected.keys())}"
            )
        for key, value in expected.items():
            yield from _tensors(value, got[key])
    elif isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            raise UnlikeError(f"it has {len(got)} entries, expected {len(expected)}")
        for a, b in zip(expected, got, strict=True):
            yield from _tensors(a, b)
    elif (
        isinstance(expected, dict | list)
        or isinstance(got, dict | list)
        or (expected is None) != (got is None)
    ):
        raise UnlikeError(f"it is {_kind(got)}, expected {_kind(expected)}")
    elif expected is not None:
        yield np.asarray(expected), np.asarray(got)


def _kind(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a sequence"
    return "none" if value is None else "a tensor"


def _short(keys: Any) -> str:
    words = ", ".join(map(repr, list(keys)[:5]))
    return words + (", ..." if len(keys) > 5 else "") or "none"


def _between(expected: NDArray[Any], got: NDArray[Any]) -> Difference:
    """The two differences of a tensor."""
    # Arrays of strings come as objects or with a width of their own, which need not be the same.
    texts = expected.dtype.kind in _TEXTS and got.dtype.kind in _TEXTS
    if expected.shape != got.shape or not (texts or expected.dtype == got.dtype):
        raise UnlikeError(
            f"it is {got.dtype} {list(got.shape)}, expected {expected.dtype} {list(expected.shape)}"
        )
    if texts:
        if not np.array_equal(expected, got):
            raise UnlikeError(
                f"{np.count_nonzero(expected != got)} of {expected.size} texts differ"
            )
        return 0.0, 0.0
    # An empty tensor has no largest entry.
    if expected.size == 0:
        return 0.0, 0.0
    # float64, as differences of float16 overflow, and those of unsigned integers wrap around.
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):  # signalling NaNs
        a, b = expected.astype(wide), got.astype(wide)
    # NaN and Inf must be in the same places and of the same sign; the rest is zero in this comparison.
    finite = np.isfinite(a)
    if not np.array_equal(
        np.where(finite, 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True
    ):
        raise UnlikeError("it has NaN or Inf in other places")
    if not finite.any():
        return 0.0, 0.0
    # Relative to the largest entry and not to each: next to it small ones are rounding anyway.
    absolute = float(np.abs(a[finite] - b[finite]).max())
    return absolute, absolute / max(float(np.abs(a[finite]).max()), FLOOR)
