"""A picture of the density of every layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sparsify_fx.errors import ConfigError, ExportError
from sparsify_fx.onnx_export.files.targets import check_target, write_checked
from sparsify_fx.onnx_export.report.export_report import ExportReport, FileReport
from sparsify_fx.onnx_export.report.rows import LayerRow

SUFFIXES = (".png", ".svg")
_LABELS = 60  # more names than that nobody can read


def check_picture(path: str | os.PathLike[str]) -> Path:
    """The file to draw to; ConfigError for another kind of file or without matplotlib, ExportError if not writable."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"a picture is {' or '.join(SUFFIXES)}, got {path}; give a name that ends so"
        )
    _figure_class()
    return check_target(path)


def draw_density(
    report: FileReport | ExportReport, path: str | os.PathLike[str]
) -> None:
    """Draw a bar for each prunable layer, in the order of the file: its density, and its share of all weights as width.

    So the colored area is the number of weights that are left. The same report gives the same bytes. Raises
    ConfigError and ExportError as `check_picture`, and ExportError when the file holds no prunable weights.
    """
    target = check_picture(path)
    layers = [row for row in report.layers if row.prunable and row.size]
    if not layers:
        raise ExportError(
            f"{report.path} holds no prunable weights; there is nothing to draw"
        )
    figure = _figure(
        layers,
        f"{Path(report.path).name}: {1 - report.sparsity:.2%} of {report.weights:,} weights left",
    )
    # Drawn to a file of its own: matplotlib may fail half way, and `write_checked`
    # writes the target whole.
    draw = target.with_name(
        f".{target.name}.{os.getpid()}.drawing{target.suffix.lower()}"
    )
    try:
        import matplotlib

        with matplotlib.rc_context(
            {"svg.hashsalt": "sparsify_fx"}
        ):  # names inside an SVG are random otherwise
            figure.savefig(
                draw, metadata={"Date": None} if draw.suffix == ".svg" else None
            )
        write_checked(target, draw.read_bytes(), lambda written: None)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error}; choose another folder"
        ) from error
    finally:
        draw.unlink(missing_ok=True)


def _figure(layers: list[LayerRow], title: str) -> Any:
    """The bars and, if they fit, the names of the layers."""
    figure = _figure_class()(
        figsize=(max(6.0, 0.24 * min(len(layers), _LABELS)), 4.5), layout="constrained"
    )
    axes = figure.subplots()
    total = sum(row.size for row in layers)
    # A tenth of the width is shared equally, so that the smallest layers are seen too.
    widths = [0.9 * row.size / total + 0.1 / len(layers) for row in layers]
    lefts = [sum(widths[:place]) for place in range(len(layers))]
    axes.bar(
        lefts,
        [row.density for row in layers],
        widths,
        align="edge",
        edgecolor="white",
        linewidth=0.4,
    )
    axes.axhline(
        sum(row.nonzeros for row in layers) / total,
        color="black",
        linewidth=0.8,
        linestyle="--",
    )
    axes.set(title=title, ylabel="density", ylim=(0, 1), xlim=(0, 1))
    axes.set_xlabel(
        "layers, as wide as their share of the weights; dashed: all together"
    )
    if len(layers) <= _LABELS:
        centers = [left + width / 2 for left, width in zip(lefts, widths, strict=True)]
        axes.set_xticks(centers, [row.name for row in layers], rotation=90, fontsize=6)
    else:
        axes.set_xticks([])
    return figure


def _figure_class() -> Any:
    """matplotlib's Figure, which draws without a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "pictures need matplotlib; install it: pip install 'sparsify_fx[plot]'"
        ) from None
    return Figure
