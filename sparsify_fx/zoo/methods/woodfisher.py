"""woodfisher and woodfisher-gradual: the block-diagonal inverse Fisher.

One shot, not gradual from the start: the second-order model of the loss holds near a minimum, which a dense run has
reached and the start of a training has not. The gradual one prunes in the run after that.
"""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import WoodFisher
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Gradual, OneShot

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

METHODS.add(
    "woodfisher-gradual",
    Method(
        name="woodfisher-gradual",
        summary="Train dense, then prune in a second run along a cubic curve by θ² / (2 [F⁻¹]_ii); at each pruning the "
        "weights that stay make up for those that go.",
        source="[Singh 2020], section 5.2",
        sets=Axes(
            criterion=WoodFisher(update="separate"), rewind=Rewind(optimizer="init")
        ),
        suggests=Axes(allocation=Global(), schedule=Gradual()),
    ),
)
