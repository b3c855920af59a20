"""hessian: largest eigenvalue and trace of the Hessian of the training loss at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.curvature import (
    Eigenvalue,
    Operator,
    Trace,
    hessian,
    largest_eigenvalue,
    trace,
)
from sparsify_fx.analysis.figures import bar_styles
from sparsify_fx.analysis.loss import mean_loss
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels
from sparsify_fx.programs.owners import programs
from sparsify_fx.tables.fitting import Grid

Measured = tuple[int, Eigenvalue, Trace]
NOTE = (
    "in eval mode (batch norm by its running statistics), without weight decay and penalty, over all trainable "
    "tensors; θ: effective weights, pruned ones left out; factors: what these are made of, such as m and w"
)


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run: in the space of θ, and in that of the factors where a weight has several."""
    found: dict[str, Measured] = {}
    for run in runs:
        batches = run.batches(options.samples, options.seed)
        # θ of a merged model with the final masks: pruned entries are no directions. The factors bring the
        # masks of their programs along.
        plain = mean_loss(run.model(), batches, run.loss, run.final_masks())
        found[f"{run.label}, θ"] = measure(hessian(plain), options)
        if has_factors(run):
            found[f"{run.label}, factors"] = measure(
                hessian(mean_loss(run.session.model, batches, run.loss)), options
            )
    rows = tuple(
        (
            name,
            size,
            top.value,
            top.residual,
            top.iterations,
            sum_.value,
            sum_.standard_error,
        )
        for name, (size, top, sum_) in found.items()
    )
    columns = (
        "run, space",
        "parameters",
        "largest eigenvalue",
        "residual",
        "iterations",
        "trace",
        "std. error",
    )
    return Findings(
        grids=(Grid("Hessian of the training loss", columns, rows),),
        figures={"hessian": lambda figure: draw(found, figure)},
        data={
            name: {"parameters": size, "eigenvalue": asdict(top), "trace": asdict(sum_)}
            for name, (size, top, sum_) in found.items()
        },
        settings=asdict(options),
        notes=(
            NOTE,
            *unfinished({name: top for name, (_, top, _) in found.items()}, options),
        ),
    )


def has_factors(run: Run) -> bool:
    """Whether a weight is made of several trained tensors."""
    # With a single one the factor is θ itself, and the two spaces are one.
    return any(
        len(list(program.parameters())) > 1
        for program in programs(run.session.model).values()
    )


def measure(operator: Operator, options: Options) -> Measured:
    """(rows of the matrix, largest eigenvalue, trace)."""
    top = largest_eigenvalue(
        operator,
        iterations=options.iterations,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    return operator.size, top, trace(operator, probes=options.probes, seed=options.seed)


def unfinished(tops: dict[str, Eigenvalue], options: Options) -> list[str]:
    """A note for each eigenvalue that is not as close as was asked."""
    return [
        f"{name}: after {top.iterations} iterations the residual is {top.residual:.2g}, above {options.tolerance:g} of "
        "the eigenvalue; give more --iterations"
        for name, top in tops.items()
        if not top.converged
    ]


def draw(found: dict[str, Measured], figure: Any) -> None:
    """Eigenvalues with residuals, traces with standard errors."""
    both, styles = panels(figure, 2), bar_styles(found)
    eigenvalues = [top for _, top, _ in found.values()]
    traces = [sum_ for _, _, sum_ in found.values()]
    tops = ([e.value for e in eigenvalues], [e.residual for e in eigenvalues])
    sums = ([t.value for t in traces], [t.standard_error for t in traces])
    titles = ("largest eigenvalue (± residual)", "trace (± standard error)")
    for axes, (values, errors), title in zip(both, (tops, sums), titles, strict=True):
        for place, name in enumerate(found):
            value, error = values[place], errors[place]
            axes.bar(place, value, yerr=error, capsize=3, label=name, **styles[name])
        # The legend names the bars: names side by side would overlap.
        axes.set(title=title, xticks=[])
        axes.grid(axis="y", alpha=0.3)
    legend(figure, both[0], columns=2)


ANALYSES.add(
    "hessian",
    Analysis(
        "hessian",
        "Largest eigenvalue (Lanczos) and trace (Hutchinson) of the Hessian of the training loss at the end.",
        "[Gadhikar 2025], section 3 and Fig. 5b",
        report,
    ),
)
