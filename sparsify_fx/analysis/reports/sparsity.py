"""layers: sparsity of each layer, and layers that have collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.figures import all_layers, layer_lines
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.sparsity import LayerSparsity, layer_sparsity
from sparsify_fx.figures import legend, panels
from sparsify_fx.tables.fitting import Grid, Value


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run's masks at the end, layer by layer and in total."""
    found = {run.label: layer_sparsity(run.final_masks()) for run in runs}
    columns = ["layer"]
    for label in found:
        columns += [f"{label}: kept", f"{label}: sparsity"]
    rows = []
    for name in (*all_layers(found.values()), "all layers"):
        row: list[Value] = [name]
        for layers in found.values():
            row += _cells(layers, name)
        rows.append(tuple(row))
    return Findings(
        grids=(Grid("sparsity by layer", tuple(columns), tuple(rows)),),
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
            for label, name, one in flatten(found)
            if one.collapsed
        ),
    )


def draw(found: dict[str, dict[str, LayerSparsity]], figure: Any) -> None:
    """A line for each run, layers from input to output."""
    (axes,) = panels(figure)
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
        # A little above 1, where the markers of collapsed layers would be cut in half.
        ylim=(None, 1.02),
    )
    legend(figure, axes)


def _cells(layers: dict[str, LayerSparsity], name: str) -> tuple[Value, ...]:
    """Kept weights and sparsity of a layer, or of all; two empty cells for a layer that this run has not."""
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
