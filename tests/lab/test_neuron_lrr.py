"""IMP against LRR on the single neuron, the minimizer, the closed forms and the statistics."""

from __future__ import annotations

import math

import pytest
import torch

from sparsify_fx.lab.common.statistics import fit_line, mean_with_interval, t_quantile
from sparsify_fx.lab.neuron_lrr import (
    Size,
    flips_by_rate,
    kept_counts,
    measure,
)
from sparsify_fx.lab.neuron_lrr.closed_forms import largest_errors
from sparsify_fx.lab.neuron_lrr.lbfgs import minimize

pytestmark = pytest.mark.slow


def rosenbrock(points: torch.Tensor) -> torch.Tensor:
    return (1 - points[:, 0]).square() + 100 * (
        points[:, 1] - points[:, 0].square()
    ).square()


def slope(points: torch.Tensor) -> torch.Tensor:
    x, y = points[:, 0], points[:, 1]
    return torch.stack(
        [-2 * (1 - x) - 400 * x * (y - x.square()), 200 * (y - x.square())], 1
    )


def test_the_minimizer_finds_the_valley_s_end_and_leaves_fixed_parameters() -> None:
    start = torch.tensor(
        [[-1.2, 1.0], [3.0, -2.0], [0.0, 0.0], [0.5, 0.5]], dtype=torch.float64
    )
    free = torch.tensor([[True, True]] * 3 + [[True, False]])
    found = minimize(rosenbrock, slope, start, free=free)
    assert torch.allclose(found[:3], torch.ones(3, 2).double(), atol=1e-6)
    assert found[3, 1] == 0.5
    assert float(slope(found)[3, 0]) == pytest.approx(0, abs=1e-6)
    alone = minimize(rosenbrock, slope, start[1:2], free=free[1:2])
    assert torch.equal(found[1:2], alone)


def test_the_minimizer_stops_where_nothing_falls() -> None:
    start = torch.zeros(1, 1, dtype=torch.float64)
    assert torch.equal(
        minimize(lambda x: x[:, 0].abs(), lambda x: x * 0 + 1, start, free=start == 0),
        start,
    )


def test_the_corrected_closed_forms_meet_the_integration_and_the_printed_ones_do_not() -> (
    None
):
    errors = largest_errors()
    for name, error in errors.items():
        if name in ("Eq. 4 as printed", "Eq. 5 as printed"):
            assert error > 0.01, name
        else:
            assert error < 1e-8, name


@pytest.mark.sweep
def test_lrr_succeeds_for_a_above_zero_and_imp_only_with_both_above() -> None:
    findings = measure(
        Size(runs=10, samples=60, widths=(1, 10), steps=150, rates=(0.1,)), 0
    )
    failed = {check.claim for check in findings.checks if not check.holds}
    assert failed == {
        f"Eq. {n} as printed equals the integrated flow within 1e-8" for n in (4, 5)
    }
    (first,) = [row for row in findings.grids[0].rows if row[0] == "1, IMP"]
    (second,) = [row for row in findings.grids[0].rows if row[0] == "1, LRR"]
    assert first[1:4] == second[1:4]  # nothing to prune: the same, but for restarts


def test_a_full_quasi_newton_step_jumps_over_zero_and_a_damped_one_does_not() -> None:
    flips = flips_by_rate(Size(runs=10, samples=60, steps=150, rates=(0.1, 1.0)), 5, 0)
    assert flips[0.1] <= 0.1
    assert flips[1.0] >= 0.3


def test_the_pruning_levels_and_the_statistics() -> None:
    assert kept_counts(1, 3) == [1, 1, 1]
    assert kept_counts(2, 3)[-1] == 1
    values = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    mean = mean_with_interval(values)
    assert mean.half == pytest.approx(3.182 * float(values.std()) / 2)
    assert math.isinf(mean_with_interval(values[:1]).half)
    assert [t_quantile(n) for n in (15, 16, 25, 1000)] == [2.131, 2.131, 2.086, 1.980]
    line = fit_line(
        torch.tensor([0.0, 1, 2, 3]).double(), torch.tensor([0.0, 1, 2, 4]).double()
    )
    assert line.slope == pytest.approx(1.3)
    assert line.r2 == pytest.approx(1 - 0.3 / 8.75)
