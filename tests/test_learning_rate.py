from __future__ import annotations

import math

import pytest

from sparsify_fx.errors import SchedulerError, UnknownNameError
from sparsify_fx.learning_rate import (
    CURVES,
    CosineWarmup,
    ImageNet,
    StepWarmup,
    Triangular,
    find_curve,
)


@pytest.mark.parametrize(
    ("curve", "epochs", "points"),
    [
        # [Gadhikar 2024], appendix A.3: warm-up to epoch 10 of 150, then the rest
        (CosineWarmup(10), 150, {0: 0.0, 5: 0.5, 10: 1.0, 80: 0.5, 150: 0.0}),
        (
            StepWarmup(10),
            150,
            {5: 0.5, 10: 1.0, 59.9: 1.0, 60: 0.1, 119.9: 0.1, 120: 0.01, 150: 0.01},
        ),
        (
            ImageNet(10),
            90,
            {0: 0.1, 9.9: 0.1, 10: 1.0, 39.9: 1.0, 40: 0.1, 70: 0.01, 90: 0.01},
        ),
        # [Gadhikar 2025], Table 6
        (Triangular(10), 100, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        (Triangular(0), 10, {0: 1.0, 5: 0.5}),
    ],
    ids=str,
)
def test_curves_pass_through_the_published_points(
    curve: CosineWarmup, epochs: int, points: dict[float, float]
) -> None:
    for epoch, factor in points.items():
        assert math.isclose(curve.factor(epoch, epochs), factor, abs_tol=1e-12), epoch


@pytest.mark.parametrize("name", list(CURVES))
def test_every_curve_stays_within_zero_and_one_and_warms_up_by_default(
    name: str,
) -> None:
    curve = CURVES[name]()
    assert curve.warmup_epochs(150) == (0 if name == "constant" else 10)
    assert all(0 <= curve.factor(150 * i / 1000, 150) <= 1 for i in range(1001))
    assert max(curve.factor(150 * i / 1500, 150) for i in range(1501)) == 1


def test_unknown_curves_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cosine-warmup'"):
        find_curve("cosine-warmpu")
    with pytest.raises(SchedulerError, match="must be a name"):
        find_curve(0.1)  # type: ignore[arg-type]
    with pytest.raises(SchedulerError, match="warmup=-1"):
        CosineWarmup(-1)
