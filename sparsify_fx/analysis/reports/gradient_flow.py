"""gradient-flow: the gradient of the kept weights of each layer, at the start and at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.batch_norm import batch_norms
from sparsify_fx.analysis.figures import layer_lines
from sparsify_fx.analysis.gradients import GradientNorm, gradient_flow
from sparsify_fx.analysis.loss import mean_loss
from sparsify_fx.analysis.runs import Run
from sparsify_fx.checkpoints.run_files import State
from sparsify_fx.figures import legend, panels
from sparsify_fx.tables.fitting import Grid, Value

# "init" or "end" -> layer -> norm.
Flow = dict[str, dict[str, GradientNorm]]


def report(runs: Sequence[Run], options: Options) -> Findings:
    """The mean gradient over training images; batch norm takes the statistics of each batch, as in training."""
    found = {
        run.label: {
            "init": flow(run, run.initial, options),
            "end": flow(run, run.final, options),
        }
        for run in runs
    }
    ends = {label: times["end"] for label, times in found.items()}
    rows: list[tuple[Value, ...]] = []
    for label, name, end in flatten(ends):
        begin = found[label]["init"][name]
        rows.append((name, label, begin.norm, begin.rms, end.norm, end.rms))
    columns = ("layer", "run", "init: norm", "init: rms", "end: norm", "end: rms")
    return Findings(
        grids=(Grid("gradient of the kept weights", columns, tuple(rows)),),
        figures={"gradient-flow": lambda figure: draw(found, figure)},
        data={
            label: {
                when: {
                    name: {"norm": g.norm, "rms": g.rms, "weights": g.weights}
                    for name, g in layers.items()
                }
                for when, layers in times.items()
            }
            for label, times in found.items()
        },
        settings={"samples": options.samples, "seed": options.seed},
        notes=(
            "norm: of all kept weights of the layer; rms: norm / sqrt(kept weights)",
        ),
    )


def flow(run: Run, state: State, options: Options) -> dict[str, GradientNorm]:
    """One state of a run, in the space of the weights θ."""
    model, masks = run.model(state), run.masks(state)
    # At the start running statistics are those of no data, and gradients by them would say nothing.
    for norm in batch_norms(model).values():
        norm.train()
    return gradient_flow(
        mean_loss(model, run.batches(options.samples, options.seed), run.loss), masks
    )


def draw(found: dict[str, Flow], figure: Any) -> None:
    """Root mean squares, start and end."""
    # One scale for both: whether gradients shrink or grow in training is what the two panels show.
    both = panels(figure, 2, sharey=True)
    for axes, when, title in zip(
        both, ("init", "end"), ("at initialisation", "at the end"), strict=True
    ):
        layers = {label: times[when].items() for label, times in found.items()}
        # No point for a layer without a gradient: zero has no place on a log axis.
        layer_lines(
            axes,
            {
                label: {n: g.rms or math.nan for n, g in of_run}
                for label, of_run in layers.items()
            },
        )
        axes.set(title=title, yscale="log")
    both[0].set_ylabel("rms gradient of a kept weight")
    legend(figure, both[0])


ANALYSES.add(
    "gradient-flow",
    Analysis(
        "gradient-flow",
        "Gradient norm of the kept weights by layer, at initialisation and at the end.",
        "[Evci 2022]",
        report,
    ),
)
