from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations import (
    PARAMETERIZATIONS,
    BalancedProduct,
    HardConcrete,
    Moment,
    Parameterization,
    PowerPropagation,
    Product,
    SigmoidGate,
    SoftThreshold,
)
from sparsify_fx.passes import InsertMask, Merge, Reparameterize
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import unmarked
from tests.conftest import batch, effective, small_net, train_step

floats = st.floats(
    width=32,
    allow_nan=False,
    allow_infinity=False,
    min_value=-(2.0**60),
    max_value=2.0**60,
)
lists = st.lists(floats, min_size=1, max_size=30)
OTHERS: dict[str, Parameterization] = {
    "exp threshold": SoftThreshold(start=-1.0, gate="exp"),
    "channel threshold": SoftThreshold(start=-3.0, per="channel"),
    "closing gates": SigmoidGate(start=-0.3),
    "half-open l0": HardConcrete(start=0.0),
    "cubic": PowerPropagation(alpha=3.0),
    "wide product": Product(beta=100.0),
}
EVERY: dict[str, Parameterization] = {
    name: PARAMETERIZATIONS[name]() for name in PARAMETERIZATIONS
} | OTHERS
every = pytest.mark.parametrize("name", EVERY)


def split(parameterization: Parameterization, theta: Tensor) -> dict[str, Tensor]:
    """Every tensor of a fresh split, in evaluation."""
    state = parameterization.state(theta)
    if "noisy" in state:
        state["noisy"].zero_()
    return {**parameterization.split(theta), **parameterization.shared(theta), **state}


@every
@settings(deadline=None)
@given(values=lists)
@example(values=[1.6363732882076268e-39])
def test_value_of_split_is_theta(name: str, values: list[float]) -> None:
    theta = torch.tensor(values, dtype=torch.float32)
    parameterization = EVERY[name]
    assert set(parameterization.split(theta)) == set(parameterization.factors)
    value = parameterization.value(split(parameterization, theta))
    assert ((value - theta).abs() <= parameterization.error_bound(theta)).all()


@pytest.mark.slow
@every
@settings(deadline=None)
@given(values=lists)
def test_settling_keeps_what_is_open_and_a_second_time_changes_nothing(
    name: str, values: list[float]
) -> None:
    theta = torch.tensor(values, dtype=torch.float32)
    parameterization = EVERY[name]
    tensors = split(parameterization, theta)
    parameterization.refresh(tensors, Moment(progress=1.0, seed=0))
    once = tensors | parameterization.settle(tensors)
    twice = once | parameterization.settle(once)
    left = parameterization.value(once)
    # d of a gate that was half open is θ / σ, and a settled gate is 1
    factor = (
        tensors["dense"] / theta
        if name in ("sigmoid-gate", "half-open l0")
        else torch.ones_like(theta)
    )
    expected = (
        torch.zeros_like(theta)
        if name == "closing gates"
        else theta * torch.nan_to_num(factor, nan=1.0)
    )
    if name == "half-open l0":
        expected = theta
    torch.testing.assert_close(left, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parameterization.value(twice), left, rtol=1e-6, atol=0)


@every
def test_masks_copies_and_checkpoints(name: str) -> None:
    model, plain = small_net(), small_net(seed=5)
    bounds = {
        key: EVERY[name].error_bound(plain.get_parameter(key).detach()) for key in KEYS
    }
    masks = {
        key: (torch.arange(model.get_parameter(key).numel()) % 2).reshape(
            bounds[key].shape
        )
        for key in KEYS
    }
    Reparameterize(EVERY[name])(model)
    InsertMask(masks)(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
    )
    for step in range(3):
        train_step(model, optimizer, step)
    assert all(
        (weight[masks[key] == 0] == 0).all() for key, weight in effective(model).items()
    )
    copies: list[Any] = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for twin in copies:
        assert [n for n, _ in twin.named_parameters()] == [
            n for n, _ in model.named_parameters()
        ]
        assert [n for n, _ in twin.named_buffers()] == [
            n for n, _ in model.named_buffers()
        ]
        assert list(twin.state_dict()) == list(model.state_dict())
        assert torch.equal(twin(batch()[0]), model(batch()[0]))
    model.load_state_dict(plain.state_dict(), strict=True)
    model.eval()
    for key, weight in effective(model).items():
        assert (
            (weight - plain.get_parameter(key).detach() * masks[key]).abs()
            <= bounds[key]
        ).all()
    outputs = model(batch()[0])
    Merge()(model)
    torch.testing.assert_close(model(batch()[0]), outputs, rtol=1e-5, atol=1e-6)


KEYS = ("0.weight", "3.weight", "7.weight")


def test_writing_a_weight_leaves_thresholds_and_temperatures_alone() -> None:
    for parameterization in (
        SoftThreshold(start=-2.0),
        SoftThreshold(start=-2.0, per="channel"),
        SigmoidGate(),
    ):
        layer = nn.Linear(4, 3, bias=False)
        Reparameterize(parameterization)(layer)
        InsertMask()(layer)
        program = programs(layer)["weight"]
        with torch.no_grad():
            for tensor in (
                *program.shared_tensors().values(),
                *program.state_tensors().values(),
            ):
                tensor.add_(0.5)
        kept = {
            k: v.clone()
            for k, v in {**program.shared_tensors(), **program.state_tensors()}.items()
        }
        theta = torch.linspace(-1, 1, 12).reshape(3, 4)
        program.write(theta)
        torch.testing.assert_close(program.theta(), theta, rtol=1e-6, atol=1e-7)
        program.set_mask(torch.eye(3, 4))
        torch.testing.assert_close(
            program.effective(), theta * torch.eye(3, 4), rtol=1e-6, atol=1e-7
        )
        for key, tensor in {
            **program.shared_tensors(),
            **program.state_tensors(),
        }.items():
            assert torch.equal(tensor, kept[key])


@pytest.mark.parametrize(
    ("gate", "per"), [("sigmoid", "layer"), ("exp", "layer"), ("sigmoid", "channel")]
)
def test_soft_threshold_forward_and_gradient_by_hand(gate: str, per: str) -> None:
    dense = torch.tensor(
        [[0.5, -0.05, 0.0], [-0.3, 0.02, 0.9]], dtype=torch.float64, requires_grad=True
    )
    s = torch.full(
        (2, 1) if per == "channel" else (),
        -2.5,
        dtype=torch.float64,
        requires_grad=True,
    )
    upstream = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 0.5]], dtype=torch.float64)
    value = SoftThreshold(gate=gate, per=per).value({"dense": dense, "s": s})
    (value * upstream).sum().backward()
    level = (
        1 / (1 + 2.718281828459045**2.5)
        if gate == "sigmoid"
        else 2.718281828459045**-2.5
    )
    slope = level * (1 - level) if gate == "sigmoid" else level
    rows, for_s = [], []
    for d_row, g_row in zip(dense.tolist(), upstream.tolist(), strict=True):
        alive = [abs(d) > level for d in d_row]
        rows.append(
            [
                (d - level if d > 0 else d + level) if on else 0.0
                for d, on in zip(d_row, alive, strict=True)
            ]
        )
        moved = [
            -slope * g * (1 if d > 0 else -1)
            for d, g, on in zip(d_row, g_row, alive, strict=True)
            if on
        ]
        for_s.append(sum(moved))
    torch.testing.assert_close(value.detach(), torch.tensor(rows, dtype=torch.float64))
    assert dense.grad is not None
    assert s.grad is not None
    torch.testing.assert_close(dense.grad, upstream * (torch.tensor(rows) != 0))
    expected = torch.tensor(for_s, dtype=torch.float64)
    torch.testing.assert_close(
        s.grad.flatten(), expected if per == "channel" else expected.sum().reshape(1)
    )


def test_sigmoid_gates_sharpen_and_become_binary() -> None:
    gate = SigmoidGate(start=0.2, temperature=200.0)
    tensors = {
        "dense": torch.ones(3),
        "logit": torch.tensor([-0.1, 0.0, 0.1]),
        "temperature": torch.ones(()),
    }
    for progress, temperature in ((0.0, 1.0), (0.5, 200.0**0.5), (1.0, 200.0)):
        gate.refresh(tensors, Moment(progress, seed=0))
        expected = 1 / (1 + torch.exp(-temperature * tensors["logit"]))
        torch.testing.assert_close(gate.value(tensors), expected)
    assert gate.value(tensors | gate.settle(tensors)).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", [SigmoidGate, HardConcrete])
def test_a_step_of_sgd_moves_a_scaled_gate_by_the_square(
    kind: type[SigmoidGate] | type[HardConcrete],
) -> None:
    moves = []
    for scale in (1.0, 10.0):
        gate = kind(start=0.3, scale=scale)
        parts = {**gate.split(torch.ones(3)), **gate.state(torch.ones(3))}
        logit = parts["logit"].requires_grad_()
        (slope,) = torch.autograd.grad(
            gate.value(parts | {"logit": logit}).sum(), logit
        )
        moves.append(gate.scale * 1e-3 * slope)
    torch.testing.assert_close(moves[1], 100 * moves[0])


def test_hard_concrete_gates_follow_their_distribution() -> None:
    gate = HardConcrete(start=0.0)
    count = 200_000
    tensors = {**gate.split(torch.ones(count)), **gate.state(torch.ones(count))}
    gate.refresh(tensors, Moment(progress=0.0, seed=1))
    z = gate.value(tensors | {"dense": torch.ones(count)})
    probability = float(gate.open_gates(tensors).mean())
    assert abs(float((z > 0).float().mean()) - probability) < 5 * (0.25 / count) ** 0.5
    assert ((z >= 0) & (z <= 1)).all()
    noise = tensors["noise"].clone()
    gate.refresh(tensors, Moment(progress=0.5, seed=1))
    assert torch.equal(noise, tensors["noise"])
    gate.refresh(tensors, Moment(progress=0.5, seed=2))
    assert not torch.equal(noise, tensors["noise"])


def test_hard_concrete_noise_is_on_in_training_only() -> None:
    layer = nn.Linear(40, 10, bias=False)
    Reparameterize(HardConcrete(start=0.0))(layer)
    program = programs(layer)["weight"]
    program.parameterization.refresh(
        program.state_tensors(), Moment(progress=0.0, seed=3)
    )
    assert not torch.equal(program(), program.theta())
    layer.eval()
    assert torch.equal(program(), program.theta())
    assert not torch.equal(copy.deepcopy(layer.train()).weight, program.theta())
    assert set(unmarked(layer.state_dict())) == {
        "weight_program.dense",
        "weight_program.logit",
    }


@given(lists, st.floats(1e-3, 1e3))
def test_product_split_has_the_inner_scaling(values: list[float], beta: float) -> None:
    theta = torch.tensor(values, dtype=torch.float64)
    parts = Product(beta).split(theta)
    m, w = parts["m"], parts["w"]
    assert (m > 0).all()
    assert ((m * m - w * w - beta).abs() <= 1e-14 * (m * m + w * w)).all()


@given(lists)
def test_balanced_split_is_balanced(values: list[float]) -> None:
    theta = torch.tensor(values, dtype=torch.float64)
    parts = BalancedProduct().split(theta)
    assert (parts["m"] >= 0).all()
    torch.testing.assert_close(parts["m"], parts["w"].abs(), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_product_split_is_close_in_every_dtype(dtype: torch.dtype) -> None:
    theta = torch.linspace(-3, 3, 101).to(dtype)
    parts = Product().split(theta)
    value = parts["m"] * parts["w"]
    assert value.dtype == dtype
    assert (
        (value - theta).abs().double()
        <= 2 * torch.finfo(dtype).eps * theta.abs().double()
    ).all()


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_product_rejects_an_impossible_beta(beta: float) -> None:
    with pytest.raises(MethodError, match="positive finite"):
        Product(beta)


def test_impossible_options_are_rejected() -> None:
    for make in (
        lambda: SoftThreshold(gate="tanh"),
        lambda: SoftThreshold(per="row"),
        lambda: SoftThreshold(start=float("nan")),
        lambda: SigmoidGate(temperature=1.0),
        lambda: HardConcrete(start=-5.0),
        lambda: HardConcrete(gamma=0.1),
        lambda: HardConcrete(scale=0.0),
        lambda: SigmoidGate(scale=float("nan")),
        lambda: PowerPropagation(alpha=0.5),
    ):
        with pytest.raises(MethodError, match=r"expected|must be|closes"):
            make()
