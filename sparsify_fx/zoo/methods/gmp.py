"""gmp: gradual magnitude pruning within one run."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Cubic

METHODS.add(
    "gmp",
    Method(
        name="gmp",
        summary="Gradual magnitude pruning: one run in which the sparsity grows along a cubic curve.",
        source="[Zhu 2017]",
        sets=Axes(schedule=Cubic()),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
