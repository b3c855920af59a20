"""What it takes for a figure to be read in a column of a paper."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsify_fx.figures import look
from sparsify_fx.figures.saving import SMALLEST, rendered


def drawn(draw: Any, size: str | None, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure as it is written, before it is a file; its texts are placed."""
    kept: list[Figure] = []

    def keep(figure: Figure, *told: Any, **more: Any) -> None:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        kept.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    rendered(draw, look(["png"], size=size))
    (figure,) = kept
    return figure


def check_legible(figure: Figure) -> None:
    """No text below 7 pt, none beyond the edge, and every line that is drawn has a name somewhere."""
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= SMALLEST == 7
    # Of what is drawn: ticks beyond an axis have places too. In inches; half a point is no more than a hairline.
    box, hair = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()), 0.5 / 72
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -hair
    assert box.x1 <= width + hair
    assert box.y1 <= height + hair
    colors = [line.get_color() for axes in figure.axes for line in axes.get_lines()]
    legends = [*figure.legends, *filter(None, (a.get_legend() for a in figure.axes))]
    assert legends or len(set(colors)) < 2
