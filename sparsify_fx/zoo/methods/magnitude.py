"""magnitude: train dense, prune once by magnitude, train again."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import OneShot

METHODS.add(
    "magnitude",
    Method(
        name="magnitude",
        summary="Train dense, prune once to the final sparsity by |θ|, retrain with the learning-rate curve again.",
        source="[Han 2015]; [Renda 2020]",
        sets=Axes(
            criterion=CRITERIA["magnitude"],
            schedule=OneShot(),
            rewind=Rewind(optimizer="init"),
        ),
        suggests=Axes(allocation=Global()),
    ),
)
