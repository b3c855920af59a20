"""spred: m ⊙ w with weight decay on both factors, which is LASSO."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import BalancedProduct
from sparsify_fx.penalties import FactorDecay
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "spred",
    Method(
        name="spred",
        summary="Weights as m ⊙ w with |m| = |w| at the start and weight decay on m and w, led to the requested "
        "sparsity; then one exact pruning and a short fine-tuning.",
        source="[Ziyin 2023]; [Jacobs 2025], eq. 2 and 7, Table 3",
        sets=Axes(
            parameterization=BalancedProduct(),
            penalty=FactorDecay(strength=1e-3, reach=10.0, floor=0.5),
        ),
        # A suggestion: under the cycles of lrr or wr the strength stays constant.
        suggests=Axes(
            criterion=CRITERIA["magnitude"], allocation=Global(), schedule=Late()
        ),
    ),
)
