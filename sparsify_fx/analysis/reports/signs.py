"""signs: flips between initialisation, the end of the warm-up and the end, in total and by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.figures import all_layers, grouped_bars, layer_lines
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.signs import SignFlips, sign_flips_by_layer, without_sign
from sparsify_fx.figures import legend, panels
from sparsify_fx.tables.fitting import Grid

STAGES = ("init to warm-up", "warm-up to end", "init to end")
SHORT = dict(
    zip(STAGES, ("init to\nwarm-up", "warm-up\nto end", "init\nto end"), strict=True)
)
# Stage -> layer -> flips.
Flips = dict[str, dict[str, SignFlips]]


def stages(run: Run) -> Flips:
    """Flips by stage and layer, among the weights that the final mask keeps; without a warm-up state only the last."""
    mask, first, last = run.final_masks(), run.initial, run.final
    # The state at the end of the warm-up is kept only where the run was told so: without it one stage is
    # left, and `_notes` says how to get the others.
    found: Flips = {}
    if run.warmup in run.epochs and run.warmup > 0:
        middle = run.at_epoch(run.warmup)
        found = {
            STAGES[0]: sign_flips_by_layer(first, middle, mask),
            STAGES[1]: sign_flips_by_layer(middle, last, mask),
        }
    return {**found, STAGES[2]: sign_flips_by_layer(first, last, mask)}


def total(layers: dict[str, SignFlips]) -> SignFlips:
    """Flips and weights summed over all layers."""
    return SignFlips(
        sum(layer.flips for layer in layers.values()),
        sum(layer.weights for layer in layers.values()),
    )


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run; a stage that a run lacks is left out and named."""
    found = {run.label: stages(run) for run in runs}
    rows = []
    for label, stage, layers in flatten(found):
        sums = total(layers)
        rows.append((label, stage, sums.flips, sums.weights, sums.share))
    present = {stage for _, stage, _ in flatten(found)}
    notes: list[str] = []
    for run in runs:
        notes += _notes(run)
    columns = ("run", "stage", "flips", "weights", "share")
    return Findings(
        grids=(
            Grid("sign flips among the weights kept at the end", columns, tuple(rows)),
            *(_by_layer(stage, found) for stage in STAGES if stage in present),
        ),
        figures={"signs": lambda figure: draw(found, figure)},
        data={
            label: {
                stage: {
                    name: {"flips": flips.flips, "weights": flips.weights}
                    for name, flips in layers.items()
                }
                for stage, layers in by_stage.items()
            }
            for label, by_stage in found.items()
        },
        notes=tuple(notes),
    )


def draw(found: dict[str, Flips], figure: Any) -> None:
    """Totals as bars, then a panel with the layers for each stage."""
    # Panels for the stages that every run has: a missing line would look like one hidden behind another.
    shown = [
        stage
        for stage in STAGES
        if all(stage in by_stage for by_stage in found.values())
    ]
    every = panels(figure, 1 + len(shown), sharey=True)
    shares = {
        label: [total(by_stage[stage]).share for stage in shown]
        for label, by_stage in found.items()
    }
    grouped_bars(every[0], [SHORT[stage] for stage in shown], shares)
    every[0].set(ylabel="share of signs flipped", title="all layers")
    for axes, stage in zip(every[1:], shown, strict=True):
        layers = {label: by_stage[stage].items() for label, by_stage in found.items()}
        layer_lines(
            axes,
            {
                label: {name: one.share for name, one in of_run}
                for label, of_run in layers.items()
            },
        )
        axes.set(title=stage)
    legend(figure, every[0])


def _by_layer(stage: str, found: dict[str, Flips]) -> Grid:
    having = {
        label: by_stage[stage] for label, by_stage in found.items() if stage in by_stage
    }
    # Runs of different models may stand side by side: a layer that one has not leaves its cell empty.
    rows = []
    for name in all_layers(having.values()):
        cells = [
            layers[name].share if name in layers else "" for layers in having.values()
        ]
        rows.append((name, *cells))
    title = f"share of signs flipped by layer, {stage}"
    return Grid(title, ("layer", *having), tuple(rows))


def _notes(run: Run) -> list[str]:
    """What a reader of this run's figures should know."""
    notes = []
    if run.warmup > 0 and run.warmup not in run.epochs:
        notes.append(
            f"{run.label}: no state at the end of the warm-up; train with --set 'snapshots_at=[{run.warmup}]' to see it"
        )
    if zero := without_sign(run.initial, run.final_masks()):
        notes.append(
            f"{run.label}: {zero} of the kept weights started at zero, without a sign; they count as not flipped"
        )
    return notes


ANALYSES.add(
    "signs",
    Analysis(
        "signs",
        "Sign flips from initialisation to the end of the warm-up and to the end, in total and by layer.",
        "[Gadhikar 2025], Figs. 1 and 8",
        report,
    ),
)
