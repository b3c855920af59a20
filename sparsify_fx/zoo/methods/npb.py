"""npb: node-path balancing at initialization, without data."""

from sparsify_fx.allocations import ErdosRenyiKernel
from sparsify_fx.criteria import NodePathBalance
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "npb",
    Method(
        name="npb",
        summary="At initialization, layer after layer, the mask with the best balance of units in use and paths "
        "through the net; without data.",
        source="[Pham 2023]",
        sets=Axes(criterion=NodePathBalance()),
        suggests=Axes(allocation=ErdosRenyiKernel(), schedule=AtInit()),
    ),
)
