"""obd: Optimal Brain Damage with the diagonal empirical Fisher."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import Fisher
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import OneShot

METHODS.add(
    "obd",
    Method(
        name="obd",
        summary="Train dense, prune once what raises the loss least to second order, ½ θ² F, retrain.",
        source="[LeCun 1990]",
        sets=Axes(criterion=Fisher(), rewind=Rewind(optimizer="init")),
        suggests=Axes(allocation=Global(), schedule=OneShot()),
    ),
)
