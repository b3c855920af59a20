"""phew: paths with higher edge weights, at initialization, without data."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import Phew
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "phew",
    Method(
        name="phew",
        summary="At initialization the weights stay that random walks through the net come over, which prefer large "
        "weights; without data.",
        source="[Patil 2021]",
        sets=Axes(criterion=Phew()),
        suggests=Axes(allocation=Global(), schedule=AtInit()),
    ),
)
