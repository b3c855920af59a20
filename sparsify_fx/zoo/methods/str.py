"""str and str-constant: soft thresholds that are learned, and that weight decay raises."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.parameterizations import SoftThreshold
from sparsify_fx.penalties import ThresholdDecay
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.schedules import Late, Never

METHODS.add(
    "str",
    Method(
        name="str",
        summary="Every layer learns the threshold below which its weights are exactly zero; the decay of the "
        "thresholds is led to the requested sparsity, then one exact pruning and a short fine-tuning.",
        source="[Kusupati 2020] (s = −200 as in [Jacobs 2025], appendix C.2)",
        sets=Axes(
            parameterization=SoftThreshold(start=-200.0),
            penalty=ThresholdDecay(5e-3, reach=10.0),
            schedule=Late(),
        ),
        suggests=Axes(criterion=CRITERIA["magnitude"], allocation=Global()),
    ),
)

METHODS.add(
    "str-constant",
    Method(
        name="str-constant",
        summary="str as published: a constant decay of the thresholds for the whole run and no pruning; the sparsity "
        "is what comes out, and the requested one does not apply.",
        source="[Kusupati 2020], section 4; [Jacobs 2025], appendix C.2",
        sets=Axes(
            parameterization=SoftThreshold(start=-200.0),
            penalty=ThresholdDecay(5e-3, reach=1.0),
            schedule=Never(),
        ),
    ),
)
