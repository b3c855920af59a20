"""wr: weight rewinding, back to the weights after the warm-up."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles

METHODS.add(
    "wr",
    Method(
        name="wr",
        summary="Prune/retrain cycles that start from the weights of the dense run after its warm-up.",
        source="[Renda 2020]; [Frankle 2020]; [Gadhikar 2024], appendix A.3",
        sets=Axes(
            schedule=Cycles(), rewind=Rewind(weights="warmup", optimizer="warmup")
        ),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
