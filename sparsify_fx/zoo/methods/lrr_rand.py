"""lrr-rand: random masks in cycles, on from the learned weights."""

from sparsify_fx.allocations import Balanced
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles

METHODS.add(
    "lrr-rand",
    Method(
        name="lrr-rand",
        summary="Prune/retrain cycles with random balanced masks, on from the learned weights; batch norm goes back.",
        source="[Gadhikar 2024], section 3, Fig. 2 (LRR-rand, rewind BN)",
        sets=Axes(
            criterion=CRITERIA["random"],
            allocation=Balanced(),
            schedule=Cycles(),
            rewind=Rewind(optimizer="init", batchnorm="warmup"),
        ),
    ),
)
