"""probmask: a probability for every weight, and a budget for all of them that shrinks."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import ProbabilityGate
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "probmask",
    Method(
        name="probmask",
        summary="Every weight has a probability of being there, trained through random gates; those of all layers are "
        "projected onto a budget that shrinks; then one exact pruning and a short fine-tuning.",
        source="[Xiao 2021]",
        sets=Axes(parameterization=ProbabilityGate(scale=3.0), schedule=Late()),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
