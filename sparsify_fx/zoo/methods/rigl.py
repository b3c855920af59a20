"""rigl: sparse from the start, regrown where the gradient is large."""

from sparsify_fx.allocations import ErdosRenyiKernel
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import RegrowEvery

METHODS.add(
    "rigl",
    Method(
        name="rigl",
        summary="Sparse from the start; the smallest weights move to where the gradient is largest.",
        source="[Evci 2020]; [Gadhikar 2025], section 3",
        sets=Axes(
            schedule=RegrowEvery(
                growth="gradient", fraction=0.3, until=0.75, anneal=True
            )
        ),
        suggests=Axes(criterion=CRITERIA["random"], allocation=ErdosRenyiKernel()),
    ),
)
