"""acdc: alternating compressed and decompressed training."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Alternating

METHODS.add(
    "acdc",
    Method(
        name="acdc",
        summary="AC/DC: compressed and dense phases in turn, all weights back from zero in each dense one.",
        source="[Peste 2021]; [Gadhikar 2025], section 3 and Table 5",
        sets=Axes(schedule=Alternating()),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
