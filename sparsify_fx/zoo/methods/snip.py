"""snip: connection sensitivity at initialisation."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "snip",
    Method(
        name="snip",
        summary="Prune at initialisation what the loss is least sensitive to: |θ ⊙ ∂L/∂θ|.",
        source="[Lee 2019]",
        sets=Axes(criterion=CRITERIA["snip"]),
        suggests=Axes(allocation=Global(), schedule=AtInit()),
    ),
)
