"""Intervals agree with scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sparsify_fx.sweeps import Spread, spread
from sparsify_fx.sweeps.spread import quantile


@pytest.mark.parametrize("freedom", [*range(1, 31), 99, 100, 999])
def test_quantiles(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_intervals(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.01, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    found = spread(values.tolist())
    assert found.n == n
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.half == pytest.approx((high - low) / 2, rel=1e-9)


def test_few_values() -> None:
    assert spread([0.7]) == Spread(1, 0.7, None)
    assert spread([0.7] * 3) == Spread(3, 0.7, 0.0)
    assert spread([]).n == 0
    assert math.isnan(spread([]).mean)
    with pytest.raises(ValueError, match="at least 1"):
        quantile(0)
