"""woodfisher: the block-diagonal inverse Fisher.

One shot, not gradual: the second-order model of the loss holds near a minimum, which a dense run has reached and the
start of a gradual run has not. Its paper prunes trained nets, in one shot and gradually; give schedule="cubic" for the
latter within one run.
"""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import WoodFisher
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import OneShot

METHODS.add(
    "woodfisher",
    Method(
        name="woodfisher",
        summary="Train dense, prune once by θ² / (2 [F⁻¹]_ii) with blocks of the inverse Fisher, retrain.",
        source="[Singh 2020]; [Kuznedelev 2023] (CAP)",
        sets=Axes(criterion=WoodFisher(), rewind=Rewind(optimizer="init")),
        suggests=Axes(allocation=Global(), schedule=OneShot()),
    ),
)
