"""Lines and bars over layers, which several analyses draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsify_fx.figures import name_layers, styles_of

_HATCHES = ("", "///", "...", "xxx")


def all_layers(found: Iterable[Iterable[str]]) -> list[str]:
    """Every layer of several runs once, in the order of the first that has it."""
    # A dict keeps the order of its keys, and each once.
    names: dict[str, None] = {}
    for layers in found:
        names |= dict.fromkeys(layers)
    return list(names)


def layer_lines(axes: Any, found: Mapping[str, Mapping[str, float]]) -> None:
    """A line for each run over its layers, from input to output."""
    names, styles = all_layers(found.values()), styles_of(found)
    for label, layers in found.items():
        axes.plot(
            [names.index(name) for name in layers],
            list(layers.values()),
            label=label,
            **styles[label],
        )
    name_layers(axes, names)
    axes.grid(alpha=0.3)


def bar_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The color of each run, and a hatch where it is that of a run before."""
    seen: dict[str, int] = {}
    found = {}
    for label, style in styles_of(labels).items():
        times = seen[style["color"]] = seen.get(style["color"], -1) + 1
        found[label] = {
            "color": style["color"],
            "hatch": _HATCHES[times % len(_HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.4,
        }
    return found


def grouped_bars(
    axes: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]]
) -> None:
    """Bars side by side, a group for each of `groups`, a color for each run in `series`."""
    # 0.8 of the room between two ticks: groups stay apart whatever their number of bars.
    width, styles = 0.8 / len(series), bar_styles(series)
    for index, (label, values) in enumerate(series.items()):
        places = [
            group + (index - (len(series) - 1) / 2) * width
            for group in range(len(groups))
        ]
        axes.bar(places, values, width, label=label, **styles[label])
    name_layers(axes, groups)
    axes.grid(axis="y", alpha=0.3)
