"""synflow: iterated synaptic flow at initialisation, without data."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import Synflow
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "synflow",
    Method(
        name="synflow",
        summary="Prune at initialisation in 100 rounds by the flow through each weight, without data.",
        source="[Tanaka 2020]",
        sets=Axes(criterion=Synflow(rounds=100)),
        suggests=Axes(allocation=Global(), schedule=AtInit()),
    ),
)
