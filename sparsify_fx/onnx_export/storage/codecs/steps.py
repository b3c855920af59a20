"""Ascending places as steps of bounded width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def with_stops(places: Places, widest: int) -> Places:
    """Ascending places and as few more as it takes for no two to be more than `widest` apart, the first from -1.

    >>> with_stops(np.array([0, 3, 40]), 16).tolist()
    [0, 3, 19, 35, 40]
    """
    steps = np.diff(places, prepend=-1)
    extra = (steps - 1) // widest
    if not extra.any():
        return places
    ends = np.cumsum(extra + 1) - 1
    steps_all = np.full(int(ends[-1]) + 1, widest, np.int64)
    steps_all[ends] = steps - extra * widest
    found: Places = np.cumsum(steps_all) - 1
    return found
