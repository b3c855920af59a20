"""set: sparse evolutionary training."""

from sparsify_fx.allocations import ErdosRenyiKernel
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import RegrowEvery

METHODS.add(
    "set",
    Method(
        name="set",
        summary="Sparse from the start; after each epoch the smallest weights move to random places.",
        source="[Mocanu 2018]",
        sets=Axes(
            schedule=RegrowEvery(growth="random", fraction=0.3, until=1.0, anneal=False)
        ),
        suggests=Axes(criterion=CRITERIA["random"], allocation=ErdosRenyiKernel()),
    ),
)
