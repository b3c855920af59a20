"""keep-zeros: what is zero now is the mask."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import NonZero
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "keep-zeros",
    Method(
        name="keep-zeros",
        summary="Every weight that is zero now stays zero, whoever pruned it, and the others train on.",
        source="[Han 2015], the retraining alone",
        # All three axes of the mask: any other value of one would make another mask than the one that is there.
        sets=Axes(criterion=NonZero(), allocation=Global(), schedule=AtInit()),
    ),
)
