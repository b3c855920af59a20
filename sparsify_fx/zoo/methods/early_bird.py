"""early-bird: the mask is drawn as soon as it has settled, a few epochs into the dense training."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import EarlyBird

METHODS.add(
    "early-bird",
    Method(
        name="early-bird",
        summary="Dense until the mask that magnitude pruning would choose hardly changes from epoch to epoch, then "
        "pruned to it once and trained on.",
        source="[You 2020]",
        sets=Axes(schedule=EarlyBird()),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
