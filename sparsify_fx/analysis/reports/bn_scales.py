"""bn-scales: the distribution of the scales of batch norm in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.batch_norm import SMALL, describe_scales, scale_names
from sparsify_fx.analysis.figures import all_layers, bar_styles
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, name_layers, panels
from sparsify_fx.tables.fitting import Grid, Value


def lacks(run: Run) -> str | None:
    """Models without a batch norm that scales lack the scales."""
    # Asked of the model that was built, since its name need not tell.
    if scale_names(run.session.model):
        return None
    return f"trains {run.config.model}, which has no batch norm; give a run of a model with batch norm"


def report(runs: Sequence[Run], options: Options) -> Findings:
    """The scales of every run at its end, layer by layer."""
    # In float32: half precision has no quantiles, and boxes need numbers of Python.
    scales = {
        run.label: {
            name: run.final[name].float() for name in scale_names(run.session.model)
        }
        for run in runs
    }
    found = {
        label: {n: describe_scales(values) for n, values in layers.items()}
        for label, layers in scales.items()
    }
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, label, one.channels, *one.quantiles, one.vanished, one.negative)
        for label, name, one in flatten(found)
    )
    columns = (
        "layer",
        "run",
        "channels",
        "min",
        "1/4",
        "median",
        "3/4",
        "max",
        f"below {SMALL:g}",
        "negative",
    )
    return Findings(
        grids=(Grid("scales of batch norm", columns, rows),),
        figures={"bn-scales": lambda figure: draw(scales, figure)},
        data={
            label: {name: asdict(one) for name, one in layers.items()}
            for label, layers in found.items()
        },
    )


def draw(scales: dict[str, dict[str, Tensor]], figure: Any) -> None:
    """Boxes (quartiles, whiskers to the extremes) for each layer, side by side by run."""
    (axes,), names = panels(figure), all_layers(scales.values())
    styles = bar_styles(scales)
    width = 0.8 / len(scales)
    for index, (label, layers) in enumerate(scales.items()):
        shade = styles[label]["color"]
        # The boxes of one layer stand side by side around its tick.
        places = [
            names.index(name) + (index - (len(scales) - 1) / 2) * width
            for name in layers
        ]
        axes.boxplot(
            [values.tolist() for values in layers.values()],
            positions=places,
            widths=0.8 * width,
            whis=(0, 100),
            patch_artist=True,
            boxprops={
                "facecolor": shade,
                "alpha": 0.8,
                "hatch": styles[label]["hatch"],
            },
            medianprops={"color": "white"},
            manage_ticks=False,
        )
        # A box has no entry in the legend; a bar without height has.
        axes.bar([0], [0], label=label, **styles[label])
    # A scale that changes its sign turns its channel around.
    axes.axhline(0, color="black", linewidth=0.8)
    name_layers(axes, names)
    axes.set(
        ylabel="scale γ",
        title="batch norm; box: quartiles, whiskers: extremes",
        xlim=(-0.6, len(names) - 0.4),
    )
    axes.grid(axis="y", alpha=0.3)
    legend(figure, axes)


ANALYSES.add(
    "bn-scales",
    Analysis(
        "bn-scales",
        "Distribution of the scales of batch norm by layer.",
        "[Gadhikar 2024], Figs. 10 and 11",
        report,
        lacks,
    ),
)
