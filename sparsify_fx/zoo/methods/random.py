"""random: a random mask at initialisation."""

from sparsify_fx.allocations import Balanced
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "random",
    Method(
        name="random",
        summary="A random mask at initialisation, then ordinary training; allocation balanced, uniform or erk.",
        source="[Gadhikar 2023]; [Gadhikar 2024] and [Gadhikar 2025]",
        sets=Axes(criterion=CRITERIA["random"]),
        suggests=Axes(allocation=Balanced(), schedule=AtInit()),
    ),
)
