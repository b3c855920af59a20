"""imp: iterative magnitude pruning, back to the initial weights."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles

METHODS.add(
    "imp",
    Method(
        name="imp",
        summary="Prune/retrain cycles that start from the initial weights each time (the lottery ticket).",
        source="[Frankle 2019]; [Gadhikar 2024], section 2",
        sets=Axes(schedule=Cycles(), rewind=Rewind(weights="init", optimizer="init")),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
