"""powerprop: weights as d·|d|^(α−1), pruned by magnitude late in the run."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import PowerPropagation
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

METHODS.add(
    "powerprop",
    Method(
        name="powerprop",
        summary="Weights as d·|d|, so that small ones stay small; one pruning by magnitude and a short fine-tuning.",
        source="[Schwarz 2021] (α = 2 to 4)",
        sets=Axes(
            parameterization=PowerPropagation(alpha=2.0),
            criterion=CRITERIA["magnitude"],
            schedule=Late(),
        ),
        suggests=Axes(allocation=Global()),
    ),
)
