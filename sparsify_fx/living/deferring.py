"""Let a layer do the placing of its weight itself: its program then ends with the values of the living entries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

Asked = list[tuple[Tensor, Tensor, Tensor, Tensor | None]]


class _Deferred(threading.local):
    """What `place` was asked for while someone else does the placing; None when nobody does."""

    asked: Asked | None = None


_DEFERRED = _Deferred()


@contextmanager
def deferred() -> Iterator[Asked]:
    """Within this context `place` returns the values that it was given, and says with what."""
    asked: Asked = []
    _DEFERRED.asked = asked
    try:
        yield asked
    finally:
        _DEFERRED.asked = None


def is_deferred(
    values: Tensor, places: Tensor, mask: Tensor, factor: Tensor | None
) -> bool:
    """Whether somebody else does the placing; told to them."""
    if _DEFERRED.asked is None:
        return False
    _DEFERRED.asked.append((values, places, mask, factor))
    return True
