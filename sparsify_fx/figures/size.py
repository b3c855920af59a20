"""What a user asks of a figure: formats, resolution and size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from sparsify_fx.errors import AnalysisError, unknown

FORMATS = ("png", "svg", "pdf")
# Centimeters: the width of a column, and of both, on a page with two columns.
COLUMN, PAGE = 8.5, 17.8
CM = 1 / 2.54
"""Inches in a centimeter; matplotlib counts in inches."""
# Below, ticks and names of 7 pt have no room; above, nobody prints.
_LEAST, _MOST = 5.0, 100.0
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:[x×]\s*(\d+(?:\.\d+)?)\s*)?", re.ASCII)


@dataclass(frozen=True)
class Look:
    """How figures are written.

    Attributes:
        formats: of png, svg and pdf; a file for each.
        dpi: pixels an inch, of png alone.
        width, height: in cm; None leaves them to the figure, which takes 8.5 cm (a column), or 17.8 cm where it has
            more than three panels.
    """

    formats: tuple[str, ...] = ("png",)
    dpi: int = 200
    width: float | None = None
    height: float | None = None


# What draws a figure gets the figure alone: plugins' functions do, too.
ASKED: ContextVar[Look] = ContextVar("asked")
_NOTHING = Look()


def asked() -> Look:
    """What is asked of the figure that is drawn now; nothing where somebody draws into a figure of their own."""
    return ASKED.get(_NOTHING)


def look(
    formats: Sequence[str] = ("png",), dpi: int = 200, size: str | None = None
) -> Look:
    """A Look from what users write; `size` is a width in cm, or "WIDTHxHEIGHT".

    Raises UnknownNameError for another format, AnalysisError for another size or resolution.

    >>> look(["svg", "pdf"], size="8.5x6")
    Look(formats=('svg', 'pdf'), dpi=200, width=8.5, height=6.0)
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    if not 30 <= dpi <= 2400:
        raise AnalysisError(
            f"a resolution of {dpi} dpi; expected 30 to 2400, such as 300 for print"
        )
    width, height = _lengths(size) if size is not None else (None, None)
    return Look(tuple(dict.fromkeys(formats)), dpi, width, height)


def _lengths(size: str) -> tuple[float, float | None]:
    """Width and, where it is given, height."""
    found = _SIZE.fullmatch(size)
    lengths = [float(text) for text in found.groups() if text] if found else []
    if not lengths or not all(_LEAST <= length <= _MOST for length in lengths):
        raise AnalysisError(
            f"a figure of the size {size!r}; expected a width in cm from {_LEAST:g} to {_MOST:g}, such as {COLUMN} for "
            f"a column, or width x height, such as {COLUMN}x6"
        )
    return lengths[0], lengths[1] if len(lengths) > 1 else None
