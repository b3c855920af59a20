"""The weight programs of this process, so that an optimizer can be looked at before it trains one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

_PROGRAMS: WeakSet[Any] = WeakSet()
_LISTENERS: list[Callable[[], None]] = []


def remember(program: Any) -> None:
    """A program came to be, by `apply`, as a copy, out of a file, or got another storage."""
    _PROGRAMS.add(program)
    for listener in _LISTENERS:
        listener()


def known_programs() -> list[Any]:
    """Those that are still there, in no order."""
    return list(_PROGRAMS)


def on_new_programs(listener: Callable[[], None]) -> None:
    """Call `listener` whenever there is a new one."""
    _LISTENERS.append(listener)
