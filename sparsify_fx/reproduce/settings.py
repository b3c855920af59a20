"""Tables of hyperparameters: what the paper prints beside what our recipes hold."""

from __future__ import annotations

from typing import Any

from sparsify_fx.reproduce.agreement import Verdict
from sparsify_fx.reproduce.catalog import find
from sparsify_fx.reproduce.figure import Figure
from sparsify_fx.reproduce.plans import plan_of
from sparsify_fx.sweeps.grid import trials_of
from sparsify_fx.sweeps.plan import SweepConfig
from sparsify_fx.train import TrainConfig
from sparsify_fx.train.recipes import load_config


def compared(figure: Figure) -> tuple[Verdict, ...]:
    """A verdict for each cell; a cell that the paper leaves empty (null) is left out.

    >>> from sparsify_fx.reproduce.catalog import find
    >>> all(verdict.holds for verdict in compared(find("gadhikar2025", "table6")[0]))
    True
    """
    configs = {
        column: _config(figure, recipe).resolved().to_dict()
        for column, recipe in figure.recipes.items()
    }
    found = []
    for row in figure.rows:
        cells = zip(figure.recipes, row.paper, row.expected, strict=True)
        for column, printed, expected in cells:
            if printed is not None:
                ours = _at(configs[column], row.key)
                told = f"{column}: {row.name} = {printed}"
                found.append(
                    Verdict(told, f"{row.key} = {ours}", _same(ours, expected))
                )
    return tuple(found)


def _config(figure: Figure, recipe: str) -> TrainConfig:
    """Of a recipe, or of the trial "table1#LABEL" in the sweep of another figure of this paper."""
    name, of_figure, label = recipe.partition("#")
    if not of_figure:
        return load_config(recipe)
    (other,) = find(figure.key, name)
    trials = trials_of(SweepConfig.model_validate(plan_of(other, "full")))
    return next(t for t in trials.values() if t.cell["method"] == label).config({})


def _same(ours: Any, expected: Any) -> bool:
    """Numbers as numbers; a section holds at least what is expected of it."""
    if isinstance(expected, dict):
        return isinstance(ours, dict) and all(
            key in ours and _same(ours[key], value) for key, value in expected.items()
        )
    if isinstance(expected, (int, float)) and isinstance(ours, (int, float)):
        return float(expected) == float(ours)
    return bool(ours == expected)


def _at(content: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if isinstance(content, (list, tuple)) and part.isdecimal():
            content = content[int(part)]
        else:
            content = content.get(part) if isinstance(content, dict) else None
    return content
