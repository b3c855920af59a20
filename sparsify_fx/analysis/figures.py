"""How figures look and where they go: colors that color-blind readers can tell apart, files whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsify_fx.errors import AnalysisError, unknown
from sparsify_fx.tables.fitting import Draw

# [Okabe 2008], without black and yellow (too pale on white).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
# A line that lies on another one lets it through; dotted lines are for what is expected by chance.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (7, 2, 2, 2)), (0, (3, 3)))
HATCHES = ("", "///", "...", "xxx")
# Characters of all ticks that fit side by side.
_WIDEST = 28
FORMATS = ("png", "svg", "pdf")
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.markersize": 4.0,
    "lines.linewidth": 1.4,
    # Names in an SVG are random otherwise; so the same numbers give the same file.
    "svg.hashsalt": "sparsify_fx",
}


def line_style(index: int) -> dict[str, Any]:
    """Color, marker and dashes of the run number `index`."""
    return {
        "color": color(index),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def color(index: int) -> str:
    """The color of the run number `index`."""
    return COLORS[index % len(COLORS)]


def name_layers(axes: Any, names: Sequence[str]) -> None:
    """Layers as ticks; beyond 24 of them only every so many are named."""
    # Rounded up, so that there are never more than 24.
    every = -(-len(names) // 24)
    ticks = range(0, len(names), every)
    short = [names[tick].removesuffix(".weight") for tick in ticks]
    turned = sum(max(map(len, text.split("\n"))) for text in short) > _WIDEST
    axes.set_xticks(
        list(ticks),
        short,
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
    )


def all_layers(found: Iterable[Iterable[str]]) -> list[str]:
    """Every layer of several runs once, in the order of the first that has it."""
    # A dict keeps the order of its keys, and each once.
    names: dict[str, None] = {}
    for layers in found:
        names |= dict.fromkeys(layers)
    return list(names)


def layer_lines(axes: Any, found: Mapping[str, Mapping[str, float]]) -> None:
    """A line for each run over its layers, from input to output."""
    names = all_layers(found.values())
    for index, (label, layers) in enumerate(found.items()):
        axes.plot(
            [names.index(name) for name in layers],
            list(layers.values()),
            label=label,
            **line_style(index),
        )
    name_layers(axes, names)
    axes.grid(alpha=0.3)


def legend(figure: Any, axes: Any, columns: int = 4) -> None:
    """What `axes` shows, under the whole figure."""
    # Outside of the axes, where it hides no line; the layout makes room for it.
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns
    )


def grouped_bars(
    axes: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]]
) -> None:
    """Bars side by side, a group for each of `groups`, a color and hatch for each of `series`."""
    # 0.8 of the room between two ticks: groups stay apart whatever their number of bars.
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        places = [
            group + (index - (len(series) - 1) / 2) * width
            for group in range(len(groups))
        ]
        # The hatch changes where the colors begin again.
        hatch = HATCHES[index // len(COLORS) % len(HATCHES)]
        axes.bar(
            places,
            values,
            width,
            label=label,
            color=color(index),
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
        )
    name_layers(axes, groups)
    axes.grid(axis="y", alpha=0.3)


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats without repetition; UnknownNameError for another, AnalysisError where matplotlib is missing."""
    for name in formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise AnalysisError(
            "figures are drawn with matplotlib; install it: pip install 'sparsify_fx[plot]'"
        ) from None
    return tuple(dict.fromkeys(formats))


def save(stem: Path, draw: Draw, formats: Sequence[str]) -> list[str]:
    """Draw one figure and write `stem`.png, .svg or .pdf; the same numbers give the same bytes. The paths."""
    import matplotlib
    from matplotlib.figure import Figure

    from sparsify_fx.train.files import write_atomically

    # The dates that these formats carry would make equal figures differ.
    undated: dict[str, Any] = {
        "png": None,
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    # Within a context, since the settings of a user's notebook are global.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        draw(figure)
        paths = [stem.with_name(f"{stem.name}.{name}") for name in formats]
        for name, path in zip(formats, paths, strict=True):

            def write(stream: Any, name: str = name) -> None:
                figure.savefig(stream, dpi=110, format=name, metadata=undated[name])

            write_atomically(path, write)
    return [str(path) for path in paths]
