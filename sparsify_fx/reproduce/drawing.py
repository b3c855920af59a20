"""A figure in the paper's form: ours in full lines, the paper's numbers as empty markers of the same color."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparsify_fx.analysis.figures import grouped_bars, layer_lines
from sparsify_fx.figures import legend, panels, series, styles_of
from sparsify_fx.figures.styles import Style
from sparsify_fx.reproduce.figure import Figure, Point

PAPER = "the paper"


def drawn(
    figure: Figure, ours: Sequence[Point], theirs: Sequence[Point]
) -> Callable[[Any], None]:
    """What draws it."""
    shown = _by_panel(ours)
    papers = _by_panel(theirs)
    for panel in papers:
        # Panels of the paper that were not run here, such as CIFAR's beside a reduction's, are panels of their own.
        shown.setdefault(panel, [])
    names = dict.fromkeys(point.series for point in (*ours, *theirs))
    draw_panel = {"lines": _lines, "bars": _bars, "layers": _layers}[figure.form]

    def draw(canvas: Any) -> None:
        styles = _styles(list(names))
        every = panels(canvas, len(shown))
        for axes, (panel, points) in zip(every, shown.items(), strict=True):
            if points:
                draw_panel(axes, points, styles)
            _paper(axes, points, papers.get(panel, []), styles)
            title = panel or "ours"
            axes.set(xlabel=figure.x, ylabel=figure.y, title=title)
            axes.grid(alpha=0.3)
        legend(canvas, *every, columns=3)

    return draw


def _styles(names: list[str]) -> dict[str, Style]:
    """Of methods; by place where two have one color, as "Random" and "Random + Sign-In" would."""
    found = styles_of(names)
    if len({style["color"] for style in found.values()}) == len(found):
        return found
    return {name: series(index) for index, name in enumerate(names)}


def _by_panel(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.panel, []).append(point)
    return found


def _by_series(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.series, []).append(point)
    return found


def _lines(axes: Any, points: Sequence[Point], styles: dict[str, Style]) -> None:
    for name, line in _by_series(points).items():
        # Where x are names, matplotlib puts them side by side in the order in which they come.
        named = any(isinstance(point.x, str) for point in line)
        ordered = line if named else sorted(line, key=lambda point: float(point.x))
        axes.errorbar(
            [point.x for point in ordered],
            [point.y for point in ordered],
            [point.half or 0.0 for point in ordered],
            label=name,
            capsize=2,
            elinewidth=0.8,
            **styles[name],
        )


def _bars(axes: Any, points: Sequence[Point], styles: dict[str, Style]) -> None:
    groups = [str(x) for x in dict.fromkeys(point.x for point in points)]
    heights = {}
    for name, bars in _by_series(points).items():
        at = {str(point.x): point.y for point in bars}
        heights[name] = [at.get(group, 0.0) for group in groups]
    grouped_bars(axes, groups, heights)


def _layers(axes: Any, points: Sequence[Point], styles: dict[str, Style]) -> None:
    layer_lines(
        axes,
        {
            name: {str(point.x): point.y for point in line}
            for name, line in _by_series(points).items()
        },
    )


def _paper(
    axes: Any, ours: Sequence[Point], points: Sequence[Point], styles: dict[str, Style]
) -> None:
    """Empty markers; where x are names, at the places that they have among ours."""
    places = {x: place for place, x in enumerate(dict.fromkeys(p.x for p in ours))}
    for name, line in _by_series(points).items():
        axes.errorbar(
            [places.get(p.x, p.x) if isinstance(p.x, str) else p.x for p in line],
            [point.y for point in line],
            [point.half or 0.0 for point in line],
            label=f"{name}, {PAPER}",
            fmt=styles[name]["marker"],
            color=styles[name]["color"],
            markerfacecolor="none",
            capsize=2,
            elinewidth=0.8,
        )
