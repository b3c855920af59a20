"""Figures as files: whole or not at all, and the same numbers give the same bytes."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sparsify_fx.errors import AnalysisError
from sparsify_fx.figures.size import ASKED, CM, COLUMN, Look
from sparsify_fx.tables.fitting import Draw

SMALLEST = 7.0
"""Points of the smallest text, at the figure's own size."""
_STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "legend.fontsize": SMALLEST,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 3.5,
    "lines.linewidth": 1.2,
    # Type 3 fonts, the default, are refused by many journals.
    "pdf.fonttype": 42,
    # Names in an SVG are random otherwise; so the same numbers give the same file.
    "svg.hashsalt": "sparsify_fx",
}
# The dates that these formats carry would make equal figures differ.
_UNDATED: dict[str, Any] = {
    "png": None,
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
# What matplotlib names and nothing refers to: in one page with several figures names would repeat.
_IDS = re.compile(r' id="[a-zA-Z]+\.?[a-zA-Z]*_\d+"')


def check_look(look: Look) -> Look:
    """The same; AnalysisError where matplotlib, which draws, is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise AnalysisError(
            "figures are drawn with matplotlib; install it: pip install 'sparsify_fx[plot]'"
        ) from None
    return look


def save(stem: Path, draw: Draw, look: Look) -> list[str]:
    """Draw one figure and write `stem`.png, .svg or .pdf; the same numbers give the same bytes. The paths."""
    from sparsify_fx.train.files import write_atomically

    paths = []
    for name, data in rendered(draw, look).items():
        path = stem.with_name(f"{stem.name}.{name}")
        write_atomically(path, partial(_write, data))
        paths.append(str(path))
    return paths


def _write(data: bytes, stream: BinaryIO) -> None:
    stream.write(data)


def inline_svg(draw: Draw, look: Look) -> str:
    """The figure as an element of a page: in the page's own ink and letters, without a background."""
    text = rendered(draw, look, {"svg.fonttype": "none"}, clear=True)["svg"].decode()
    text = _IDS.sub("", text[text.index("<svg") :])
    # Black is the ink of the page, which may be light.
    return text.replace("#000000", "currentColor")


def rendered(
    draw: Draw, look: Look, style: dict[str, Any] | None = None, *, clear: bool = False
) -> dict[str, bytes]:
    """The bytes of a figure by format."""
    import matplotlib
    from matplotlib.figure import Figure

    # Within a context, since the settings of a user's notebook are global.
    before = ASKED.set(look)
    try:
        with matplotlib.rc_context(_STYLE | (style or {})):
            figure = Figure(figsize=_inches(look, 0.68 * COLUMN), layout="constrained")
            draw(figure)
            # Again, for a plugin's function that sets sizes of its own.
            if look.width:
                height = figure.get_size_inches()[1] / CM
                figure.set_size_inches(*_inches(look, height))
            # Before the drawing that counts: a panel that changes its size may take other ticks, which need other room.
            for _ in range(2):
                figure.draw_without_rendering()
            return {name: _written(figure, name, look, clear) for name in look.formats}
    finally:
        ASKED.reset(before)


def _inches(look: Look, height: float) -> tuple[float, float]:
    return (look.width or COLUMN) * CM, (look.height or height) * CM


def _written(figure: Any, kind: str, look: Look, clear: bool) -> bytes:
    stream = io.BytesIO()
    figure.savefig(
        stream,
        dpi=look.dpi,
        format=kind,
        metadata=_UNDATED[kind],
        transparent=clear,
    )
    return stream.getvalue()
