"""rare-gems: a lottery ticket at initialization, found by training probabilities, then trained."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import RoundedGate
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "rare-gems",
    Method(
        name="rare-gems",
        summary="Weights stay as they were drawn while their probabilities are trained, rounded, and the lowest taken "
        "away step by step; in the second half of the run the weights that are left train.",
        source="[Sreenivasan 2022]",
        sets=Axes(parameterization=RoundedGate(scale=3.0), schedule=Late(at=0.5)),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
