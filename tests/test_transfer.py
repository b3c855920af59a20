"""take_from in memory: each part against the formula, nothing changed on error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import CheckpointError, MethodError, SparsityError
from sparsify_fx.programs.owners import programs
from tests.conftest import effective, small_net, ulp_distance


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def other() -> dict[str, Tensor]:
    return sparsify_fx.masked_state_dict(
        sparsify_fx.apply(small_net(seed=7), "random", sparsity=0.5, seed=7)
    )


@pytest.mark.parametrize("method", ["random", "signin"])
def test_mask_and_signs_come_over_and_magnitudes_stay(
    method: str, other: dict[str, Tensor]
) -> None:
    net = small_net()
    init = state_of(net)
    model = sparsify_fx.take_from(
        sparsify_fx.apply(net, method, sparsity=0.5), other, init=init
    )
    assert model is net
    for name, weight in effective(model).items():
        expected = init[name].abs() * other[name].sign()
        assert torch.equal(programs(model)[name].current_mask(), other[f"{name}.mask"])
        assert (ulp_distance(weight, expected) <= 2)[other[f"{name}.mask"] == 1].all()
        assert not weight[other[f"{name}.mask"] == 0].any()
    assert torch.equal(model.state_dict()["7.bias"], init["7.bias"])
    again = sparsify_fx.masked_state_dict(model)
    sparsify_fx.take_from(model, other)
    assert all(
        torch.equal(again[name], tensor)
        for name, tensor in sparsify_fx.masked_state_dict(model).items()
    )


def test_a_zero_sign_keeps_the_own_one_and_a_zero_weight_takes_the_others() -> None:
    model = sparsify_fx.apply(nn.Linear(4, 1, bias=False), "magnitude", sparsity=0.5)
    own, theirs = (
        torch.tensor([[1.0, -2.0, 0.0, -4.0]]),
        torch.tensor([[-5.0, 0.0, -7.0, 8.0]]),
    )
    for take, expected in (
        ("signs", [-1.0, -2.0, 0.0, 4.0]),
        ("magnitudes", [5.0, 0.0, -7.0, -8.0]),
    ):
        model.load_state_dict({"weight": own})
        sparsify_fx.take_from(model, {"weight": theirs}, [take])
        assert model.weight.tolist() == [expected]


def test_weights_bring_everything_that_the_state_holds(
    other: dict[str, Tensor],
) -> None:
    model = sparsify_fx.take_from(
        sparsify_fx.apply(small_net(), "random", sparsity=0.5),
        other,
        ["mask", "weights"],
    )
    ends = sparsify_fx.masked_state_dict(model)
    assert all(torch.equal(ends[name], tensor) for name, tensor in other.items())


def test_training_goes_on_from_there(other: dict[str, Tensor]) -> None:
    net = small_net()
    model = sparsify_fx.take_from(
        sparsify_fx.apply(net, "random", sparsity=0.5),
        other,
        init=state_of(small_net()),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
    assert scheduler.nonzeros() == sum(
        int(other[f"{name}.mask"].sum()) for name in programs(model)
    )


@pytest.mark.parametrize(
    ("edit", "take", "error", "message"),
    [
        (
            {"7.weight": None},
            ["signs"],
            CheckpointError,
            r"does not fit this model: 7\.weight: none",
        ),
        (
            {"7.weight": torch.ones(2, 2)},
            ["signs"],
            CheckpointError,
            r"7\.weight: \(2, 2\) instead of \(4, 72\)",
        ),
        ({"7.weight.mask": None}, ["mask"], CheckpointError, r"7\.weight\.mask: none"),
        (
            {"7.bias": torch.ones(3)},
            ["weights"],
            CheckpointError,
            r"7\.bias: \(3,\) instead of \(4,\)",
        ),
        (
            {"7.weight.mask": torch.full((4, 72), 2)},
            ["mask"],
            CheckpointError,
            "values beside 0 and 1",
        ),
        (
            {"7.weight.mask": torch.ones(4, 72)},
            ["mask", "signs"],
            SparsityError,
            r"this model 396; apply a method that",
        ),
        (
            {},
            ["mask", "signs"],
            MethodError,
            r"brings back \d+ weights that were pruned and have no value; give init=",
        ),
        ({}, ["mask", "sign"], ValueError, "did you mean 'signs'"),
        ({}, "mask", MethodError, "must be a list"),
        ({}, [], MethodError, "must be a list"),
        ({}, ["weights", "signs"], MethodError, "take one or the other"),
    ],
)
def test_errors_change_nothing(
    other: dict[str, Tensor],
    edit: dict[str, Tensor | None],
    take: list[str],
    error: type[Exception],
    message: str,
) -> None:
    model = sparsify_fx.apply(small_net(), "random", sparsity=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        name: tensor for name, tensor in (other | edit).items() if tensor is not None
    }
    with pytest.raises(error, match=message):
        sparsify_fx.take_from(model, state, take)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )


def test_a_plain_model_is_refused(net: nn.Sequential, other: dict[str, Tensor]) -> None:
    with pytest.raises(MethodError, match=r"call sparsify_fx\.apply"):
        sparsify_fx.take_from(net, other)
