"""Errors that ranks tell each other: which of them all ranks know of, and which another rank shows already."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from sparsify_fx.errors import DistributedError, SparsifyError

_MOST_CHARACTERS = 400


def text_of(error: BaseException) -> str:
    """What the other ranks are told."""
    return f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS]


def mark(error: BaseException, before: Sequence[str]) -> None:
    """Note on an error that all ranks know of it.

    Args:
        before: what the ranks before this one told.
    """
    if isinstance(error, SparsifyError):
        # A wrong configuration fails alike on all ranks: one of them is enough to show it.
        error.told_elsewhere = text_of(error) in before
    with contextlib.suppress(AttributeError, TypeError):
        # On the error itself: it passes through the `together` of callers, which must not exchange once more.
        error.__dict__["heard_by_all_ranks"] = True


def heard(error: BaseException) -> bool:
    """Whether every rank knows of the error already."""
    return isinstance(error, DistributedError) or "heard_by_all_ranks" in getattr(
        error, "__dict__", {}
    )
