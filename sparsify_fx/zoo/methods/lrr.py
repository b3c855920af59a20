"""lrr: learning rate rewinding, on from the learned weights."""

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.recipe import METHODS, Axes, Method
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles

_SUGGESTS = Axes(criterion=CRITERIA["magnitude"], allocation=Global())

METHODS.add(
    "lrr",
    Method(
        name="lrr",
        summary="Prune/retrain cycles that go on from the learned weights; only the learning rate starts again, "
        "with its warm-up, and the optimizer state is fresh.",
        source="[Renda 2020]; [Gadhikar 2024], section 2 and appendix A.3",
        sets=Axes(schedule=Cycles(), rewind=Rewind(optimizer="init")),
        suggests=_SUGGESTS,
    ),
)

METHODS.add(
    "lrr-bn",
    Method(
        name="lrr-bn",
        summary="lrr that also rewinds batch norm to the end of the warm-up after each pruning.",
        source="[Gadhikar 2024], section 3, 'LRR modifications'",
        sets=Axes(
            schedule=Cycles(), rewind=Rewind(optimizer="init", batchnorm="warmup")
        ),
        suggests=_SUGGESTS,
    ),
)

METHODS.add(
    "lrr-nowarmup",
    Method(
        name="lrr-nowarmup",
        summary="lrr as first published: after each pruning the learning rate starts from its peak, without a warm-up.",
        source="[Renda 2020]; [Gadhikar 2024], Fig. 8",
        sets=Axes(
            schedule=Cycles(), rewind=Rewind(optimizer="init", learning_rate="warmup")
        ),
        suggests=_SUGGESTS,
    ),
)
