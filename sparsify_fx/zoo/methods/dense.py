"""dense: no pruning, the baseline."""

from sparsify_fx.recipe import METHODS, Axes, Recipe
from sparsify_fx.schedules import Never

METHODS.add(
    "dense",
    Recipe(
        name="dense",
        summary="Dense training without masks; the requested sparsity does not apply.",
        source="baseline",
        sets=Axes(schedule=Never()),
    ),
)
