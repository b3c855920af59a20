"""srigl: RigL with a constant fan-in, which gives up units that few weights need."""

from sparsify_fx.allocations import FanIn
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import RegrowEvery

METHODS.add(
    "srigl",
    Method(
        name="srigl",
        summary="RigL in which every unit of a layer has the same number of weights; units with few salient ones "
        "are given up.",
        source="[Lasby 2024]",
        sets=Axes(
            allocation=FanIn(),
            schedule=RegrowEvery(
                growth="gradient", fraction=0.3, until=0.75, anneal=True
            ),
        ),
        suggests=Axes(criterion=CRITERIA["random"]),
    ),
)
