"""edge-popup: a net within a random net, whose weights are never trained."""

from sparsify_fx.allocations import Uniform
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import TopScores
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "edge-popup",
    Method(
        name="edge-popup",
        summary="The weights stay as they were drawn, and their scores are trained: in each layer those of the largest "
        "scores are the net (a strong lottery ticket, a supermask).",
        source="[Ramanujan 2020]; [Zhou 2019]",
        sets=Axes(parameterization=TopScores(), schedule=Late(at=0.95)),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Uniform()),
    ),
)
