"""The figures of a report: curves over epochs, and signs at kept states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.report.details import Details
from sparsify_fx.report.facts import RunFacts

# More lines than these nobody tells apart: thin ones then, and a name for each method.
MANY = 12
_CURVES = {
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "loss": "training loss",
    "lr": "learning rate",
}


def shown_curves(runs: Sequence[RunFacts]) -> list[str]:
    """The keys of metrics.jsonl that at least one run has values for."""
    return [name for name in _CURVES if any(run.curve(name)[0] for run in runs)]


def draw_curves(runs: Sequence[RunFacts], figure: Any) -> None:
    """A panel each for accuracies, loss and learning rate, over all epochs of all cycles; a line for each run."""
    names = shown_curves(runs)
    every = panels(figure, len(names))
    for axes, name in zip(every, names, strict=True):
        _lines(axes, runs, name)
        axes.set(xlabel="epoch", ylabel=_CURVES[name])
    legend(figure, *every)


def draw_density(runs: Sequence[RunFacts], figure: Any) -> None:
    """The share of prunable weights that is kept, by epoch."""
    (axes,) = panels(figure)
    _lines(axes, runs, "density")
    lowest = min(min(run.curve("density")[1], default=1.0) for run in runs)
    # At 0.99 and more a linear axis shows zero for all.
    axes.set(
        xlabel="epoch", ylabel="density", yscale="log" if lowest < 0.2 else "linear"
    )
    legend(figure, axes)


def draw_signs(found: Mapping[str, Details], figure: Any) -> None:
    """The share of kept weights whose sign differs from the initial one, at each state that runs kept."""
    (axes,), styles = panels(figure), styles_of(found)
    for label, details in found.items():
        epochs = [epoch for epoch, _, _ in details.signs]
        shares = [share for _, share, _ in details.signs]
        axes.plot(epochs, shares, label=label, **styles[label])
    axes.set(xlabel="epoch", ylabel="signs that differ from init")
    axes.grid(alpha=0.3)
    legend(figure, axes)


def _lines(axes: Any, runs: Sequence[RunFacts], name: str) -> None:
    """One curve of every run."""
    many = len(runs) > MANY
    # Of many runs the methods are told: each has its color.
    labels = [run.method if many else run.label for run in runs]
    styles, told = styles_of(labels), set()
    for run, label in zip(runs, labels, strict=True):
        epochs, values = run.curve(name)
        style = dict(styles[label])
        if many:
            style |= {"marker": "", "linewidth": 0.7, "alpha": 0.6}
        # Markers at every epoch of a long run would be a band.
        every = max(1, len(epochs) // 12)
        first = label not in told and bool(epochs)
        axes.plot(
            epochs, values, label=label if first else "", markevery=every, **style
        )
        told |= {label} if first else set()
    axes.grid(alpha=0.3)
