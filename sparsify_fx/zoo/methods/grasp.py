"""grasp: gradient signal preservation at initialisation."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import GraSP
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "grasp",
    Method(
        name="grasp",
        summary="Prune at initialisation what lowers the gradient norm least, or raises it: θ ⊙ Hg.",
        source="[Wang 2020]",
        sets=Axes(criterion=GraSP(temperature=200.0)),
        suggests=Axes(allocation=Global(), schedule=AtInit()),
    ),
)
