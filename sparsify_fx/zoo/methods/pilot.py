"""pilot and pilot-init: m ⊙ w that can flip signs, with weight decay on both factors."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import Product
from sparsify_fx.penalties import FactorDecay, Pilot
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late

_SUGGESTS = Axes(criterion=CRITERIA["magnitude"], allocation=Global(), schedule=Late())

METHODS.add(
    "pilot",
    Method(
        name="pilot",
        summary="Weights as m ⊙ w with m² − w² = 1 and weight decay on m and w, which grows while the training "
        "accuracy rises and decays in the second half; then one exact pruning and a short fine-tuning.",
        source="[Jacobs 2025], Algorithm 1, Tables 2 and 3",
        sets=Axes(
            parameterization=Product(beta=1.0), penalty=Pilot(strength=1e-4, delta=1.01)
        ),
        suggests=_SUGGESTS,
    ),
)

METHODS.add(
    "pilot-init",
    Method(
        name="pilot-init",
        summary="pilot with a constant weight decay on m and w: the effect of its initialisation alone.",
        source="[Jacobs 2025], section 4 (PILoT init) and Fig. 3",
        sets=Axes(
            parameterization=Product(beta=1.0),
            penalty=FactorDecay(strength=1e-4, reach=1.0),
        ),
        suggests=_SUGGESTS,
    ),
)
