"""Copies of programs, averages above all: they are stored as what they were copied from, or cannot follow it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

_COPIES: WeakKeyDictionary[nn.Module, WeakSet[Any]] = WeakKeyDictionary()


def note_copy(program: nn.Module, copied: nn.Module) -> None:
    """Remember, as long as both live, that one program is a copy of the other."""
    _COPIES.setdefault(program, WeakSet()).add(copied)


def copies_of(program: nn.Module) -> list[Any]:
    """The copies that were made of a program, and of those.

    >>> first, second, third = nn.ReLU(), nn.ReLU(), nn.ReLU()
    >>> note_copy(first, second), note_copy(second, third)
    (None, None)
    >>> copies_of(first) == [second, third], copies_of(third)
    (True, [])
    """
    found = list(_COPIES.get(program, ()))
    for copied in tuple(found):
        found += copies_of(copied)
    return found
