"""layers: sparsity of each layer, and layers that have collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.figures import layer_lines, legend
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.sparsity import LayerSparsity, layer_sparsity
from sparsify_fx.tables.fitting import Grid


def report(runs: Sequence[Run], options: Options) -> Findings:
    """The masks at the end."""
    found = {run.label: layer_sparsity(run.final_masks()) for run in runs}
    names = dict.fromkeys(name for layers in found.values() for name in layers)
    rows = [
        (name, *(cell for layers in found.values() for cell in _cells(layers, name)))
        for name in (*names, "all layers")
    ]
    columns = (
        "layer",
        *(f"{label}: {what}" for label in found for what in ("kept", "sparsity")),
    )
    return Findings(
        grids=(Grid("sparsity by layer", columns, tuple(rows)),),
        figures={"layers": lambda figure: draw(found, figure)},
        data={
            label: {
                name: {
                    "weights": one.weights,
                    "kept": one.kept,
                    "sparsity": one.sparsity,
                }
                for name, one in layers.items()
            }
            for label, layers in found.items()
        },
        notes=tuple(
            f"{label}: {name} has collapsed, none of its {one.weights} weights is left"
            for label, layers in found.items()
            for name, one in layers.items()
            if one.collapsed
        ),
    )


def draw(found: dict[str, dict[str, LayerSparsity]], figure: Any) -> None:
    """A line for each run, layers from input to output."""
    axes = figure.subplots()
    layer_lines(
        axes,
        {
            label: {n: o.sparsity for n, o in layers.items()}
            for label, layers in found.items()
        },
    )
    axes.set(
        ylabel="sparsity",
        title="sparsity by layer, from input to output",
        ylim=(None, 1.02),
    )
    legend(figure, axes)


def _cells(
    layers: dict[str, LayerSparsity], name: str
) -> tuple[str | int | float, ...]:
    everything = LayerSparsity(
        sum(one.weights for one in layers.values()),
        sum(one.kept for one in layers.values()),
    )
    one = everything if name == "all layers" else layers.get(name)
    return ("", "") if one is None else (one.kept, one.sparsity)


ANALYSES.add(
    "layers",
    Analysis(
        "layers",
        "Sparsity of each layer; layers that collapsed.",
        "[Gadhikar 2025], Fig. 9",
        report,
    ),
)
