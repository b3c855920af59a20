"""Every penalty's value and gradient by hand, the rules of their strengths, and spred as LASSO."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.parameterizations import (
    HardConcrete,
    Parameterization,
    Product,
    SigmoidGate,
    SoftThreshold,
)
from sparsify_fx.passes import InsertMask, Reparameterize
from sparsify_fx.penalties import (
    L1,
    L2,
    PENALTIES,
    FactorDecay,
    Frobenius,
    Observation,
    OpenGates,
    PenaltySum,
    Pilot,
    ThresholdDecay,
    goal,
)
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.recipe import axis_value, describe
from tests.conftest import small_net

THETA = torch.tensor([[0.5, -0.25, 0.0], [-2.0, 1.0, 0.75]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 0, 1]])
ALIVE = THETA * MASK


def program(parameterization: Parameterization | None = None) -> WeightProgram:
    """THETA under MASK."""
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(THETA)
    if parameterization is not None:
        Reparameterize(parameterization)(layer)
    InsertMask({"weight": MASK})(layer)
    return programs(layer)["weight"]


def check(term: Tensor, value: float, gradients: dict[Tensor, Tensor]) -> None:
    term.backward()
    assert float(term.detach()) == pytest.approx(value, rel=1e-12)
    for tensor, expected in gradients.items():
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, expected, rtol=1e-12, atol=0)


def test_l1() -> None:
    one = program()
    check(L1(0.1)([one]), 0.1 * 3.5, {one.dense: 0.1 * ALIVE.sign()})


@pytest.mark.parametrize("kind", [Frobenius, L2])
def test_l2(kind: type[Frobenius]) -> None:
    one = program()
    check(
        kind(0.1)([one]), 0.05 * (0.25 + 0.0625 + 4 + 0.5625), {one.dense: 0.1 * ALIVE}
    )


@pytest.mark.parametrize("penalty", [FactorDecay(0.1), Pilot(0.1)])
def test_factors(penalty: FactorDecay | Pilot) -> None:
    one = program(Product(beta=1.0))
    m, w = one.m, one.w
    # m² + w² = sqrt(4θ² + β²)
    value = 0.1 * float(((4 * ALIVE**2 + 1).sqrt() * MASK).sum())
    check(
        penalty([one]), value, {m: 0.2 * m.detach() * MASK, w: 0.2 * w.detach() * MASK}
    )


def test_thresholds() -> None:
    one = program(SoftThreshold(start=-3.0, per="channel"))
    check(
        ThresholdDecay(0.1)([one]),
        0.05 * 2 * 9,
        {one.s: torch.full((2, 1), -0.3, dtype=torch.float64)},
    )


def test_gates_of_continuous_sparsification() -> None:
    one = program(SigmoidGate(start=0.2))
    one.temperature.fill_(3.0)
    gate = 1 / (1 + math.exp(-0.6))
    check(
        OpenGates(0.1)([one]),
        0.1 * 5 * gate,
        {one.logit: 0.1 * 3 * gate * (1 - gate) * MASK.double()},
    )


def test_gates_of_hard_concrete() -> None:
    one = program(HardConcrete(start=1.0))
    gate = 1 / (1 + math.exp(-(1.0 - 2 / 3 * math.log(0.1 / 1.1))))
    check(
        OpenGates(0.1)([one]),
        0.1 * 5 * gate,
        {one.logit: 0.1 * gate * (1 - gate) * MASK.double()},
    )


def test_a_given_strength_replaces_the_own_one() -> None:
    for penalty in (L1(0.1), FactorDecay(0.1), Pilot(0.1)):
        one = program(Product())
        torch.testing.assert_close(
            penalty([one], torch.tensor(0.3)), 3 * penalty([one])
        )


def test_wrong_partners_and_numbers_are_rejected() -> None:
    with pytest.raises(MethodError, match="'gates' needs gates"):
        OpenGates()([program()])
    with pytest.raises(MethodError, match="'thresholds' needs thresholds"):
        ThresholdDecay()([program()])
    model = sparsify_fx.apply(small_net(), "lrr", penalty="gates")
    with pytest.raises(MethodError, match="'gates' needs gates"):
        sparsify_fx.Scheduler(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            epochs=2,
            steps_per_epoch=2,
        )
    for name in set(PENALTIES) - {"none"}:
        with pytest.raises(MethodError, match="strength=-1"):
            PENALTIES[name](strength=-1)
    with pytest.raises(MethodError, match="reach="):
        L1(reach=0.5)
    with pytest.raises(MethodError, match="delta="):
        Pilot(delta=0.9)
    with pytest.raises(MethodError, match="threshold="):
        Pilot(threshold=-1.0)


def lasso(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """argmin ½‖Xθ − y‖² + strength·‖θ‖₁ by cyclic coordinate descent."""
    theta = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(2000):
        for j in range(len(theta)):
            partial = y - x @ theta + x[:, j] * theta[j]
            rho = float(x[:, j] @ partial)
            theta[j] = math.copysign(max(abs(rho) - strength, 0.0), rho) / float(
                x[:, j] @ x[:, j]
            )
    return theta


@pytest.mark.sweep
@pytest.mark.slow
def test_decay_of_the_factors_is_lasso_at_twice_the_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([2.0, -1.5, 0, 0, 1.0, 0, 0, 0], dtype=torch.float64)
    y += 0.3 * torch.randn(12, generator=generator, dtype=torch.float64)
    alpha = 0.6
    expected = lasso(x, y, 2 * alpha)
    assert 0 < int((expected == 0).sum()) < 8

    layer = nn.Linear(8, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, 0.1)
    Reparameterize(Product(beta=1.0))(layer)
    penalty, optimizer = (
        FactorDecay(alpha, reach=1.0),
        torch.optim.SGD(layer.parameters(), lr=5e-3),
    )
    for _ in range(8000):
        optimizer.zero_grad()
        loss = (layer(x)[:, 0] - y).square().sum() / 2 + penalty(
            programs(layer).values()
        )
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight[0].detach(), expected, rtol=1e-9, atol=1e-9)


def seen(
    epoch: float, accuracy: float | None, l1: float, epochs: int = 8
) -> Observation:
    return Observation(
        epoch,
        epochs,
        epoch / epochs,
        None,
        near_zero=0.0,
        norm=1.0,
        l1=l1,
        kept_l1=100.0,
        accuracy=accuracy,
    )


def test_pilot_by_hand() -> None:
    trace = [
        (0.3, 500),
        (0.5, 400),
        (0.4, 300),
        (0.6, 200),
        (0.7, 150),
        (0.8, 120),
        (0.9, 90),
        (0.95, 80),
    ]
    #  rose and above K = 100 and k <= 4:  up   up   down (fell)  up   then down: the second half
    expected = [2.0, 4.0, 2.0, 4.0, 2.0, 1.0, 0.5, 0.25]
    for threshold, want in (
        (None, expected),
        (350.0, [2.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]),
    ):
        rule, level, before, path = (
            Pilot(1.0, delta=2.0, threshold=threshold),
            1.0,
            None,
            [],
        )
        for k, (accuracy, l1) in enumerate(trace, start=1):
            now = seen(k, accuracy, l1)
            level, applied = rule.adapt(level, before, now)
            assert applied == level
            before = now
            path.append(level)
        assert path == want
    with pytest.raises(SchedulerError, match=r"scheduler.observe\(accuracy=...\)"):
        Pilot().adapt(1.0, None, seen(1, None, 500))


def on_the_way(progress: float, near_zero: float) -> Observation:
    return Observation(
        1.0, 10, progress, 0.9, near_zero, norm=1.0, l1=1.0, kept_l1=1.0, accuracy=None
    )


def test_the_strength_is_led_to_the_sparsity() -> None:
    rule = OpenGates(1.0, reach=100.0)
    assert goal(0.9, 0.5) == pytest.approx(0.85 * 0.875)
    below, on, above = on_the_way(0.5, 0.7), on_the_way(0.5, 0.8), on_the_way(0.5, 0.89)
    assert rule.adapt(2.0, on_the_way(0.25, 0.1), below) == (
        pytest.approx(20.0),
        pytest.approx(20.0),
    )
    assert rule.adapt(99.0, on_the_way(0.25, 0.1), below) == (100.0, 100.0)
    assert rule.adapt(8.0, below, on) == (4.0, 0.0)
    assert rule.adapt(8.0, on, on) == (8.0, 0.0)
    assert rule.adapt(8.0, below, above) == (4.0, -4.0)
    assert L1(1.0).adapt(8.0, below, above) == (4.0, 0.0)
    assert FactorDecay(1.0, reach=1.0).adapt(1.0, below, above) == (1.0, 1.0)
    assert L1(1.0).adapt(1.0, None, seen(1, 0.5, 1.0)) == (1.0, 1.0)


def test_the_floor_ends_the_shrinking_of_all_weights() -> None:
    rule, before = FactorDecay(1.0, floor=0.3), on_the_way(0.25, 0.1)
    for norm, strength in ((0.31, 20.0), (0.29, 0.0)):
        level, applied = rule.adapt(
            2.0, before, replace(on_the_way(0.5, 0.7), norm=norm)
        )
        assert (level, applied) == (
            pytest.approx(20.0 if strength else 2.0),
            pytest.approx(strength),
        )
    with pytest.raises(MethodError, match=r"floor=1.0 must be in \[0, 1\)"):
        FactorDecay(1.0, floor=1.0)


# ------------------------------------------------------------------ sums


def both() -> PenaltySum:
    return PenaltySum((FactorDecay(2e-3, reach=1.0), Frobenius(5e-2)))


def test_a_sum_is_the_sum_of_value_and_gradient() -> None:
    one, other, together = (program(Product(beta=1.0)) for _ in range(3))
    first, second = FactorDecay(2e-3)([one]), Frobenius(5e-2)([other])
    term = both()(iter([together]))
    for each in (first, second, term):
        each.backward()
    assert float(term.detach()) == pytest.approx(
        float(first.detach() + second.detach()), rel=1e-12
    )
    for name, factor in together.factor_tensors().items():
        parts = [p.factor_tensors()[name].grad for p in (one, other)]
        assert parts[0] is not None
        assert parts[1] is not None
        torch.testing.assert_close(factor.grad, parts[0] + parts[1])


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (["factors"], "two penalties or more"),
        (["factors", "none"], "neither 'none' nor a sum"),
        (["l2", {"name": "l2", "strength": 1.0}], "one kind twice"),
        (["factors", "l1"], "FactorDecay and L1 both adapt their strength"),
        (["pilot", "factors"], "Pilot and FactorDecay both adapt"),
    ],
)
def test_sums_that_mean_nothing_are_refused(parts: list[object], told: str) -> None:
    with pytest.raises(MethodError, match=told):
        axis_value("penalty", parts)


def test_a_sum_is_written_as_a_list_and_told_as_one() -> None:
    given = [
        {"name": "factors", "strength": 2e-3, "reach": 1.0, "floor": 0.0},
        {"name": "frobenius", "strength": 5e-2},
    ]
    assert axis_value("penalty", given) == both()
    assert describe("penalty", both()) == given
    assert both().without_decay == ("factors",)


def test_after_the_final_pruning_the_constant_part_of_a_sum_goes_on() -> None:
    model = small_net()
    model = sparsify_fx.apply(
        model,
        "spred",
        sparsity=0.5,
        penalty=PenaltySum((FactorDecay(1e-3), Frobenius(1e-2))),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=5, steps_per_epoch=2)
    terms = []
    for _ in range(scheduler.steps):
        term = scheduler.penalty()
        alone = Frobenius(1e-2)(programs(model).values())
        terms.append(float(term.detach() - alone.detach()))
        term.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    # The decay of the factors is on until the pruning at 0.8 of the run and off after it.
    assert terms[0] > 0
    assert terms[-2:] == pytest.approx([0.0, 0.0], abs=1e-9)
