"""dead-channels: outputs of a layer that carry no signal, and layers that pass none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.channels import Channels, dead_channels
from sparsify_fx.analysis.figures import all_layers, grouped_bars
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels
from sparsify_fx.tables.fitting import Grid


def report(runs: Sequence[Run], options: Options) -> Findings:
    """The networks at the end, on training images."""
    # Training images: a channel that is silent on them had no gradient to come back by.
    found = {
        run.label: dead_channels(
            run.model(), run.batches(options.samples, options.seed), run.loss
        )
        for run in runs
    }
    rows = []
    for label, name, one in flatten(found):
        causes = (one.without_weights, one.constant, one.unheard)
        rows.append((name, label, one.channels, *causes, one.dead))
    columns = (
        "layer",
        "run",
        "channels",
        "without weights",
        "constant",
        "unheard",
        "dead",
    )
    return Findings(
        grids=(Grid("dead channels", columns, tuple(rows)),),
        figures={"dead-channels": lambda figure: draw(found, figure)},
        data={
            label: {name: asdict(one) for name, one in layers.items()}
            for label, layers in found.items()
        },
        settings={"samples": options.samples, "seed": options.seed},
        notes=tuple(
            f"{label}: {name} has collapsed, all of its {one.channels} channels are dead"
            for label, name, one in flatten(found)
            if one.collapsed
        ),
    )


def draw(found: dict[str, dict[str, Channels]], figure: Any) -> None:
    """The share of dead channels by layer, a bar for each run."""
    (axes,), names = panels(figure), all_layers(found.values())
    # Bars need a height for every layer: a layer that a run has not gets none.
    shares = {
        label: [
            layers[name].dead / layers[name].channels if name in layers else 0.0
            for name in names
        ]
        for label, layers in found.items()
    }
    grouped_bars(axes, names, shares)
    axes.set(
        ylabel="share of channels",
        title="dead channels, from input to output",
        ylim=(0, 1.02),
    )
    legend(figure, axes)


ANALYSES.add(
    "dead-channels",
    Analysis(
        "dead-channels",
        "Channels that depend on no input or that nothing depends on; layers that collapsed.",
        "[Tanaka 2020], section 3",
        report,
    ),
)
