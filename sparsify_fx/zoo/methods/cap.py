"""cap: correlation-aware pruning, gradual, in cycles."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CAP
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import GradualCycles

METHODS.add(
    "cap",
    Method(
        name="cap",
        summary="Train dense, then cycles: in each block of the Fisher information weights go one by one, those that "
        "stay make up for each, and the net is trained with a cycle of the learning rate.",
        source="[Kuznedelev 2023]",
        sets=Axes(criterion=CAP(), rewind=Rewind(optimizer="init")),
        suggests=Axes(allocation=Global(), schedule=GradualCycles()),
    ),
)
