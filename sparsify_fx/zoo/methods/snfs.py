"""snfs: sparse networks from scratch, weights that move between layers by momentum."""

from sparsify_fx.allocations import Uniform
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import RegrowEvery

METHODS.add(
    "snfs",
    Method(
        name="snfs",
        summary="Sparse from the start; the smallest weights move to the layers, and to the places in them, where the "
        "momentum of the gradient is largest.",
        source="[Dettmers 2019]",
        sets=Axes(
            schedule=RegrowEvery(
                growth="momentum",
                fraction=0.5,
                until=1.0,
                anneal=True,
                redistribute=True,
            )
        ),
        suggests=Axes(criterion=CRITERIA["random"], allocation=Uniform()),
    ),
)
