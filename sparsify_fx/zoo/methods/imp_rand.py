"""imp-rand: random masks in cycles, back to the weights after the warm-up."""

from sparsify_fx.allocations import Balanced
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles

METHODS.add(
    "imp-rand",
    Method(
        name="imp-rand",
        summary="Prune/retrain cycles with random balanced masks, each from the weights after the first warm-up.",
        source="[Gadhikar 2024], section 3, Fig. 2 (IMP-rand)",
        sets=Axes(
            criterion=CRITERIA["random"],
            allocation=Balanced(),
            schedule=Cycles(),
            rewind=Rewind(weights="warmup", optimizer="warmup"),
        ),
    ),
)
