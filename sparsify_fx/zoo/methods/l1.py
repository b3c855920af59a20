"""l1: the L1 norm of the weights as a penalty (LASSO)."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import Dense
from sparsify_fx.penalties import L1
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "l1",
    Method(
        name="l1",
        summary="An L1 penalty on plain weights, led to the requested sparsity; then one exact pruning and a short "
        "fine-tuning.",
        source="[Tibshirani 1996]; [Jacobs 2025], section 4 (as LASSO)",
        sets=Axes(parameterization=Dense(), penalty=L1(strength=1e-4, reach=30.0)),
        # A suggestion: under the cycles of lrr or wr the strength stays constant.
        suggests=Axes(
            criterion=CRITERIA["magnitude"], allocation=Global(), schedule=Late()
        ),
    ),
)
