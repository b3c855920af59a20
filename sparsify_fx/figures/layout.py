"""Panels side by side where they have room, and a legend under them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsify_fx.figures.size import CM, COLUMN, PAGE, asked

# Centimeters that a panel needs for its ticks and title; of many, narrow ones are better than a tower.
_ROOM, _LITTLE_ROOM = 5.5, 4.1
# Names of layers beyond which only every so many is told, in a panel of 8.5 cm.
_NAMES = 16
_POINTS = 72.0


def panels(
    figure: Any,
    count: int = 1,
    *,
    shape: float = 0.68,
    room: float = 0.0,
    **options: Any,
) -> list[Any]:
    """`count` axes in rows as long as the figure's width allows, and the figure as high as these need.

    Args:
        shape: height of a panel over its width.
        room: cm that a panel needs at least, where names in it are long.
        options: of `Figure.subplots`, such as sharey.
    """
    look = asked()
    # More than three panels fill a page's width, unless the user says what width there is.
    width = look.width or (COLUMN if count <= 3 else PAGE)
    room = room or (_ROOM if count <= 3 else _LITTLE_ROOM)
    columns = max(1, min(count, int(width // room)))
    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    each = max(shape * width / columns, 4.2 if rows > 1 else 5.0)
    figure.set_size_inches(width * CM, (look.height or rows * each) * CM)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    every: list[Any] = grid.flatten().tolist()
    for axes in every[count:]:
        axes.remove()
    return every[:count]


def legend(figure: Any, *shown: Any, columns: int = 4) -> None:
    """What the axes `shown` have labels for, each once, under the whole figure."""
    entries: dict[str, Any] = {}
    for axes in shown:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if not entries:
        return
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    # Measured, since what does not fit would be cut off at the edge of the figure.
    # In points: the setting of others may be a word, such as "medium".
    font = FontProperties(size=rcParams["legend.fontsize"])
    size = font.get_size_in_points()
    longest = max(
        TextPath((0, 0), text, prop=font).get_extents().width for text in entries
    )
    width, height = figure.get_size_inches()
    fitting = int((width * _POINTS - size) // (longest + 4.5 * size))
    columns = max(1, min(columns, fitting, len(entries)))
    # Outside of the axes, where it hides no line; the figure grows by its rows, unless its height was asked for.
    if asked().height is None:
        rows = math.ceil(len(entries) / columns)
        figure.set_size_inches(width, height + (rows + 0.5) * 1.4 * size / _POINTS)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=columns
    )


def name_layers(axes: Any, names: Sequence[str]) -> None:
    """Layers as ticks; where there are many only every so many are named."""
    # Rounded up, so that there are never more than fit.
    most = max(4, int(_NAMES * axes.get_position().width * _width(axes) / COLUMN))
    every = -(-len(names) // most)
    ticks = range(0, len(names), every)
    short = [names[tick].removesuffix(".weight") for tick in ticks]
    letters = sum(max(map(len, text.split("\n"))) for text in short)
    # About six letters of 7 pt are a centimeter wide, and each name wants one to its side.
    turned = letters + len(short) > 6 * axes.get_position().width * _width(axes)
    # Upright names take their height from the panel: the figure gets it, once for each row.
    if turned and asked().height is None and axes.get_subplotspec().is_first_col():
        width, height = axes.figure.get_size_inches()
        longest = max(map(len, "\n".join(short).split("\n")))
        axes.figure.set_size_inches(width, height + 0.085 * longest * CM)
    axes.set_xticks(
        list(ticks),
        short,
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )


def _width(axes: Any) -> float:
    """Of the figure, in cm."""
    width: float = axes.figure.get_size_inches()[0] / CM
    return width
