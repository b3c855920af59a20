"""signin: m ⊙ w with rescaling, on a random balanced mask unless another method brings the mask."""

from sparsify_fx.actions import RescaleEvery
from sparsify_fx.allocations import Balanced
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import Product
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import AtInit

METHODS.add(
    "signin",
    Method(
        name="signin",
        summary="Weights as m ⊙ w with m² − w² = β, rescaled every epoch until T2, so that signs can flip.",
        source="[Gadhikar 2025], Algorithm 1, Tables 6 and 7",
        sets=Axes(
            parameterization=Product(beta=1.0),
            actions=(RescaleEvery(every=1, until=0.75),),
        ),
        suggests=Axes(
            criterion=CRITERIA["random"], allocation=Balanced(), schedule=AtInit()
        ),
    ),
)
