"""dense: no pruning, the baseline."""

from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Never

METHODS.add(
    "dense",
    Method(
        name="dense",
        summary="Dense training without masks; the requested sparsity does not apply.",
        source="baseline",
        sets=Axes(schedule=Never()),
    ),
)
