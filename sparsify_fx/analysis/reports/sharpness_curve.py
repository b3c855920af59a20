"""sharpness-curve: the largest eigenvalue of the Hessian while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.batch_norm import batch_norms
from sparsify_fx.analysis.curvature import Eigenvalue, hessian, largest_eigenvalue
from sparsify_fx.analysis.loss import mean_loss
from sparsify_fx.analysis.reports import sign_curve
from sparsify_fx.analysis.reports.hessian import NOTE, unfinished
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid

Curve = dict[int, Eigenvalue]


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run, in the space of θ, at every kept state."""
    found = {run.label: curve(run, options) for run in runs}
    rows = tuple(
        (label, epoch, top.value, top.residual, top.iterations)
        for label, epoch, top in flatten(found)
    )
    named = {f"{label}, epoch {epoch}": top for label, epoch, top in flatten(found)}
    # Said always, also where no run of this table has batch norm: the note belongs to the method.
    left_out = "; epoch 0 of a model with batch norm is left out: its running statistics are not those of any data"
    return Findings(
        grids=(
            Grid(
                "largest eigenvalue by epoch",
                ("run", "epoch", "value", "residual", "iterations"),
                rows,
            ),
        ),
        figures={"sharpness-curve": lambda figure: draw(found, figure)},
        data={
            label: {str(epoch): asdict(top) for epoch, top in tops.items()}
            for label, tops in found.items()
        },
        settings=asdict(options),
        notes=(NOTE + left_out, *unfinished(named, options)),
    )


def curve(run: Run, options: Options) -> Curve:
    """Largest eigenvalues of one run by epoch over all cycles."""
    batches, found = run.batches(options.samples, options.seed), {}
    for epoch, state in run.points().items():
        # In eval mode the loss is a function of the weights alone. Before the first epoch running statistics
        # are those of no data, so that the Hessian there would be that of another network.
        model = run.model(state)
        if epoch > 0 or not batch_norms(model):
            loss = mean_loss(model, batches, run.loss, run.masks(state))
            found[epoch] = largest_eigenvalue(
                hessian(loss),
                iterations=options.iterations,
                tolerance=options.tolerance,
                seed=options.seed,
            )
    return found


def draw(found: dict[str, Curve], figure: Any) -> None:
    """A line for each run over its epochs."""
    (axes,), styles = panels(figure), styles_of(found)
    for label, tops in found.items():
        axes.plot(
            list(tops),
            [top.value for top in tops.values()],
            label=label,
            **styles[label],
        )
    axes.set(
        xlabel="epoch",
        ylabel="largest eigenvalue",
        title="sharpness of the training loss",
    )
    # The largest eigenvalue can be negative, where a log axis would drop the point.
    positive = all(top.value > 0 for _, _, top in flatten(found))
    axes.set_yscale("log" if positive else "symlog")
    axes.grid(alpha=0.3)
    legend(figure, axes)


ANALYSES.add(
    "sharpness-curve",
    Analysis(
        "sharpness-curve",
        "Largest eigenvalue of the Hessian by epoch.",
        "[Gadhikar 2025], Fig. 5b",
        report,
        sign_curve.lacks,
    ),
)
