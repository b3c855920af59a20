"""prune-curve: accuracy of a trained net that is pruned to many levels without fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.connectivity import loss_and_error
from sparsify_fx.analysis.pruning import PruneCurve, prune_curve
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid, Value


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run's weights at its end, pruned by magnitude."""
    found = {run.label: curve_of(run) for run in runs}
    rows: list[tuple[Value, ...]] = []
    for label, curve in found.items():
        for sparsity, accuracy in zip(curve.sparsities, curve.accuracies, strict=True):
            rows.append((label, f"{sparsity:.4g}", f"{accuracy:.4f}"))
    chosen: list[tuple[Value, ...]] = []
    for label, curve in found.items():
        drops = (curve.before_drop(0.01), curve.before_drop(0.02), curve.chosen())
        chosen.append(
            (label, f"{curve.accuracies[0]:.4f}", *map("{:.4g}".format, drops))
        )
    columns = ("run", "accuracy", "before 1 %", "before 2 %", "by the rule")
    return Findings(
        grids=(
            Grid(
                "accuracy after pruning", ("run", "sparsity", "accuracy"), tuple(rows)
            ),
            Grid("the level just before the accuracy drops", columns, tuple(chosen)),
        ),
        figures={"prune-curve": lambda figure: draw(found, figure)},
        data={
            label: {**asdict(curve), "chosen": curve.chosen()}
            for label, curve in found.items()
        },
        notes=tuple(_note(run) for run in runs),
    )


def curve_of(run: Run) -> PruneCurve:
    """On the images that the run kept aside for validation, or else on its test set."""
    session = run.session
    aside = session.data.validation is not None
    batches = list(session.validation_batches() if aside else session.test_batches())

    def accuracy(model: nn.Module) -> float:
        return 1 - loss_and_error(model, batches, run.loss)[1]

    return prune_curve(run.model(), run.weights, accuracy)


def _note(run: Run) -> str:
    aside = run.session.data.validation is not None
    on = (
        "on the validation images"
        if aside
        else "on the test set: choose levels by validation: 0.1 in the recipe"
    )
    return f"{run.label}: measured {on}"


def draw(found: dict[str, PruneCurve], figure: Any) -> None:
    """Accuracy over the share of weights left, a line for each run, its chosen level marked."""
    (axes,) = panels(figure)
    styles = styles_of(found)
    for label, curve in found.items():
        left = [100 * (1 - sparsity) for sparsity in curve.sparsities]
        axes.plot(left, curve.accuracies, label=label, **styles[label])
        axes.axvline(
            100 * (1 - curve.chosen()), color=styles[label]["color"], linestyle=":"
        )
    axes.set(xlabel="weights left, %", ylabel="accuracy", xscale="log")
    # Pruning goes from left to right.
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    legend(figure, axes)


ANALYSES.add(
    "prune-curve",
    Analysis(
        "prune-curve",
        "Accuracy of the trained net pruned to many levels without fine-tuning, and the level before it drops.",
        "[Jacobs 2025], appendix C.2",
        report,
    ),
)
