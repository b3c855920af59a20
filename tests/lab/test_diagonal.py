"""Diagonal linear networks: the flow, the mirror flow, spred's signs and the ordering of [Jacobs 2025] in small."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsify_fx.lab.diagonal import measure
from sparsify_fx.lab.diagonal.bregman import (
    check_mirror_flow,
    mirror,
    potential,
    width_at,
)
from sparsify_fx.lab.diagonal.problem import (
    SHAPES,
    STARTS,
    Regression,
    Schedule,
    descend,
    draw_regression,
    exact_flow,
    factors,
)
from sparsify_fx.lab.diagonal.runs import Size

SMALL = Size(
    seeds=12,
    samples=20,
    width=30,
    nonzeros=2,
    totals=(0.3, 1.0, 3.0),
    rate=5e-3,
    time=30.0,
    long_time=40.0,
    escape_rates=(1e-2,),
    escape_totals=(3.0,),
    early=0.1,
)


@pytest.fixture(scope="module")
def problem() -> Regression:
    return draw_regression(3, 20, 30, 2, 0)


def test_the_problem_is_what_it_says(problem: Regression) -> None:
    assert (problem.truth != 0).sum(1).tolist() == [2, 2, 2]
    point = torch.randn(
        3, 4, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()
    error = (point - problem.truth[:, None]) @ problem.inputs.transpose(1, 2)
    (expected,) = torch.autograd.grad(error.square().sum() / 40, point)
    assert torch.allclose(problem.gradient(point.detach()), expected, atol=1e-12)
    assert torch.equal(draw_regression(3, 20, 30, 2, 0).inputs, problem.inputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_a_schedule_adds_up_to_its_total(shape: str, unit: float) -> None:
    schedule = Schedule(shape, 3.0, 50.0, unit)
    times = torch.linspace(0, 50, 500_001, dtype=torch.float64)
    assert float(schedule.integral(times)[-1]) == pytest.approx(3.0)
    assert float(torch.trapezoid(schedule.strength(times), times)) == pytest.approx(
        3.0, rel=1e-4
    )


@pytest.mark.parametrize("start", STARTS)
def test_the_factors_multiply_to_the_start(start: str, problem: Regression) -> None:
    first, second = factors(problem.start, start)
    assert torch.allclose(first * second, problem.start, atol=1e-7)
    gap = (first.square() - second.square()).abs()
    if start == "pilot":
        assert torch.allclose(gap, torch.ones_like(gap))
    elif start == "spred":
        assert torch.equal(first.abs(), second.abs())
    else:
        assert 0 < gap.max() < {"spred-float64": 1e-15, "spred-float32": 1e-6}[start]


@pytest.mark.parametrize("init", ["pilot", "spred"])
def test_small_steps_approach_the_exact_flow(init: str, problem: Regression) -> None:
    schedules = [Schedule("constant", 1.0, 5.0), Schedule("geometric", 1.0, 5.0)]
    points, _ = exact_flow(problem, init, schedules, torch.tensor([0.0, 5.0]).double())
    exact = problem.distance(points[-1])
    coarse, fine = (
        descend(problem, init, schedules, rate=rate)[1][-1] for rate in (1e-2, 1e-3)
    )
    assert (fine - exact).abs().max() < 0.2 * (coarse - exact).abs().max() < 0.02


def test_a_balanced_start_keeps_every_sign_and_rounding_frees_it(
    problem: Regression,
) -> None:
    schedules, times = (
        [Schedule("geometric", 3.0, 100.0)],
        torch.tensor([0.0, 100.0]).double(),
    )
    for start, least in (("spred", 0), ("spred-float64", 1), ("spred-float32", 1)):
        points, _ = exact_flow(problem, start, schedules, times)
        flipped = points[0] * points[1] < 0
        first, second = factors(problem.start, start)
        assert flipped.sum() >= least
        assert not (flipped[:, 0] & (first.abs() == second.abs())).any()
    stuck, free = (
        float(descend(problem, start, schedules, rate=1e-2)[1][-1].mean())
        for start in ("spred", "pilot")
    )
    assert stuck > 2 * free


@pytest.mark.parametrize("shape", SHAPES)
def test_lemma_b1_and_theorem_21_hold_with_exponent_4_and_not_with_2(
    shape: str, problem: Regression
) -> None:
    found = check_mirror_flow(
        problem, Schedule(shape, 1.0, 10.0), torch.linspace(0, 10, 11).double()
    )
    assert found.lemma < 1e-7
    assert found.theorem < 1e-7
    assert found.printed > 0.1


def test_the_mirror_map_is_the_potential_s_slope_and_its_minimum_moves_to_zero() -> (
    None
):
    up, down = torch.tensor(0.75).double(), torch.tensor(0.25).double()
    width = width_at(up, down, 0.3)
    point = torch.linspace(-1, 1, 9, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(potential(point, up, down, width).sum(), point)
    assert torch.allclose(slope, mirror(point.detach(), up, down, width))
    start: Tensor = up**2 - down**2
    moved = start * torch.exp(torch.tensor(-4 * 0.3).double())
    assert float(mirror(moved, up, down, width)) == pytest.approx(0, abs=1e-7)


@pytest.mark.sweep
@pytest.mark.slow
def test_pilot_ends_nearer_than_spred() -> None:
    checks = {check.claim: check for check in measure(SMALL, 0).checks}
    must = [
        claim
        for claim in checks
        if "than spred's" in claim or "Eq. 7" in claim or "acts at once" in claim
    ]
    assert len(must) == 3
    for claim in must:
        assert checks[claim].holds, checks[claim]
    assert not checks[
        "Theorem 2.1 with a as printed, exp(−2A), holds within 1e-6"
    ].holds
