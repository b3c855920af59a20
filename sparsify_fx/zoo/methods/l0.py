"""l0: random gates whose probability of being open is penalised."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import HardConcrete
from sparsify_fx.penalties import OpenGates
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "l0",
    Method(
        name="l0",
        summary="Every weight has a random hard-concrete gate; the expected number of open gates is penalised and led "
        "to the requested sparsity, then the gates become binary, one exact pruning and a short fine-tuning.",
        source="[Louizos 2018]",
        sets=Axes(
            parameterization=HardConcrete(scale=30.0),
            penalty=OpenGates(1e-4, reach=1000.0),
            schedule=Late(),
        ),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)
