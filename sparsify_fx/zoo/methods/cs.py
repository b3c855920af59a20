"""cs: continuous sparsification, a gate for every weight that grows steeper."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import SigmoidGate
from sparsify_fx.penalties import OpenGates
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "cs",
    Method(
        name="cs",
        summary="Every weight has a gate σ(τ·s) with τ from 1 to 200 and a penalty on open gates, led to the requested "
        "sparsity; the gates become binary at the exact pruning, then a short fine-tuning.",
        source="[Savarese 2020]",
        sets=Axes(
            parameterization=SigmoidGate(start=0.3, temperature=200.0, scale=10.0),
            penalty=OpenGates(1e-4),
            schedule=Late(),
        ),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
