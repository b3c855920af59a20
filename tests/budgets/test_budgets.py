"""Budgets of weights and multiply-adds: met to the last weight with every allocation, or refused in words."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.budgets import (
    MACs,
    Parameters,
    count_multiply_adds,
    find_budget,
    met_by,
)
from sparsify_fx.errors import LayerError, MethodError, SparsityError, UnknownNameError
from sparsify_fx.programs.owners import programs

X = torch.linspace(-1, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8)


class Net(nn.Module):
    """A strided and a depthwise convolution, a norm, and a layer that the forward does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 10)
        self.unused = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(self.depthwise(x).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def left(model: nn.Module) -> int:
    """Multiply-adds with kept weights, by hand."""
    uses = {"first.weight": 16, "depthwise.weight": 16, "head.weight": 1}
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    return sum(n * int(masks[name].sum()) for name, n in uses.items())  # type: ignore[union-attr]


DENSE = 16 * (27 * 16 + 9 * 16) + 160


def train(model: nn.Module, epochs: int = 4) -> sparsify_fx.Scheduler:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=epochs, steps_per_epoch=2
    )
    while not scheduler.finished:
        F.cross_entropy(model(X), torch.arange(3)).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return scheduler


def test_multiply_adds_by_hand() -> None:
    work = count_multiply_adds(net(), ((X[:1],), {}))
    assert work.by_weight == {
        "first.weight": 16 * 27 * 16,
        "depthwise.weight": 16 * 9 * 16,
        "head.weight": 160,
        "unused.weight": 0,
    }
    assert (work.total, work.other) == (DENSE, 0)


METHODS = ("random", "gmp", "lrr", "signin", "str", "rigl")
ALLOCATIONS = ("uniform", "erk", "balanced", "global")
# Each method and each allocation is there; all pairs are swept.
FEW = list(zip(METHODS, (*ALLOCATIONS, "global", "erk"), strict=True))
ALL = itertools.product(METHODS, ALLOCATIONS)


@pytest.mark.parametrize(
    ("method", "allocation"),
    [
        pytest.param(*pair, marks=[] if pair in FEW else pytest.mark.sweep)
        for pair in ALL
    ],
)
def test_the_end_of_a_training_has_the_multiply_adds_that_were_asked_for(
    method: str, allocation: str
) -> None:
    given: dict[str, Any] = {}
    if method == "rigl":
        given = {"batches": [(X, torch.arange(3))], "loss_fn": F.cross_entropy}
    model = sparsify_fx.apply(
        net(), method, sparsity=0.8, budget="macs", allocation=allocation,
        example_inputs=X[:1], **given,
    )  # fmt: skip
    (met,) = met_by(model)
    train(model)
    # One weight more would be over it: the dearest costs 16.
    assert round(0.2 * DENSE) - 16 <= left(model) <= round(0.2 * DENSE)
    assert left(model) == met.expected
    assert sparsify_fx.scheduler.unfinished.unfinished(model) == ()


def test_numbers_are_of_the_whole_model_and_shares_of_what_is_pruned() -> None:
    model = sparsify_fx.apply(
        net(), "random", exclude="first", budget=MACs(left=7500), example_inputs=X[:1]
    )
    # 6912 of them are the excluded layer's.
    assert 7500 - 16 < met_by(model)[0].expected <= 7500
    model = sparsify_fx.apply(
        net(), "random", exclude="first", budget=MACs(left=0.5), example_inputs=X[:1]
    )
    assert met_by(model)[0].dense == DENSE - 6912
    assert met_by(model)[0].asked == (DENSE - 6912) // 2


def test_a_list_of_batches_and_dicts_serve_as_example_inputs() -> None:
    batches = [(X, torch.arange(3))]
    a = sparsify_fx.apply(net(), "random", budget=MACs(left=0.1), batches=batches)
    b = sparsify_fx.apply(
        net(), "random", budget=MACs(left=0.1), example_inputs={"x": X[:1]}
    )
    assert met_by(a) == met_by(b)
    with pytest.raises(MethodError, match="needs example_inputs="):
        sparsify_fx.apply(net(), "random", budget="macs", batches=iter(batches))


def test_a_number_of_weights() -> None:
    model = sparsify_fx.apply(net(), "random", budget=Parameters(left=100))
    assert sum(int(p.current_mask().sum()) for p in programs(model).values()) == 100  # type: ignore[union-attr]
    with pytest.raises(SparsityError, match="1,000,000 weights cannot be reached"):
        sparsify_fx.apply(net(), "random", budget=Parameters(left=1_000_000))


def test_floors_hold_and_raise_the_least() -> None:
    model = sparsify_fx.apply(
        net(), "gmp", sparsity=0.9, budget="macs", min_per_layer=5, example_inputs=X[:1]
    )
    train(model)
    assert min(int(p.current_mask().sum()) for p in programs(model).values()) >= 5  # type: ignore[union-attr]
    with pytest.raises(SparsityError, match="the least is 165"):
        sparsify_fx.apply(
            net(), "random", budget=MACs(left=100), min_per_layer=5,
            allocation="uniform", example_inputs=X[:1],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"budget": MACs(left=10**9)}, SparsityError, "more than the 9,376 of the dense"),
        ({"budget": MACs(left=0.2), "sparsity": 0.5}, MethodError, "two targets"),
        ({"budget": "macs", "method": "dense"}, MethodError, "dense never prunes"),
        ({"budget": "macs", "allocation": "n:m"}, MethodError, "decides every layer by itself"),
        ({"budget": "macs", "sparsity": 1.5}, SparsityError, "fraction in"),
        ({"budget": "mac"}, UnknownNameError, "did you mean 'macs'"),
        ({"budget": {"name": "latency"}}, MethodError, "milliseconds"),
        ({"budget": 3}, MethodError, "expected a name"),
        ({"budget": "macs", "include": "unused"}, SparsityError, "multiplies by none"),
        ({"budget": "macs", "example_inputs": torch.ones(2, 5)}, LayerError, "does not take the example inputs"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused_and_changes_nothing(
    asked: dict[str, Any], error: type[Exception], told: str
) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    with pytest.raises(error, match=told):
        sparsify_fx.apply(model, **{"method": "gmp", "example_inputs": X[:1], **asked})
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert not programs(model)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("left", [0, -1, 0.0, 1.5, True, "half"])
def test_targets_that_are_none(left: Any) -> None:
    for kind in (MACs, Parameters):
        with pytest.raises(SparsityError, match="left="):
            kind(left=left)


def test_the_model_is_only_read() -> None:
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    count_multiply_adds(model, ((X,), {}))
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


class Tied(nn.Module):
    """A language model whose table of words is its head too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_tied_weights_count_where_they_multiply_and_attention_is_of_no_weight() -> None:
    work = count_multiply_adds(Tied(), ((torch.zeros(1, 5, dtype=torch.long),), {}))
    assert work.by_weight["words.weight"] == 5 * 20 * 8
    assert work.by_weight["attention.in_proj_weight"] == 5 * 3 * 8 * 8
    assert work.other == 2 * 5 * 5 * 8
    tokens = torch.zeros(1, 5, dtype=torch.long)
    model = sparsify_fx.apply(
        Tied(), "random", budget=MACs(left=1000), example_inputs=tokens
    )
    assert 1000 - 5 < met_by(model)[0].expected <= 1000
    with pytest.raises(SparsityError, match="cannot be reached, the least is"):
        sparsify_fx.apply(
            Tied(), "random", budget=MACs(left=400), example_inputs=tokens
        )


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (nn.ConvTranspose2d(4, 8, 3, groups=2), torch.ones(1, 4, 5, 5), 25 * 144),
        (nn.Conv1d(4, 8, 3), torch.ones(1, 4, 10), 8 * 96),
        (nn.Conv3d(2, 4, 2), torch.ones(1, 2, 3, 3, 3), 8 * 64),
        (nn.LSTM(4, 8, 2), torch.ones(5, 1, 4), 5 * (32 * 4 + 3 * 32 * 8)),
    ],
)  # fmt: skip
def test_layers_of_all_kinds(layer: nn.Module, x: Tensor, expected: int) -> None:
    assert count_multiply_adds(layer, ((x,), {})).total == expected
    assert count_multiply_adds(layer.double(), ((x.double(),), {})).total == expected


def test_a_bilinear_layer() -> None:
    pair = (torch.ones(3, 4), torch.ones(3, 5))
    assert count_multiply_adds(nn.Bilinear(4, 5, 6), (pair, {})).total == 3 * 120


def test_a_state_goes_on_and_a_part_beside_another_keeps_its_own() -> None:
    model = net()
    sparsify_fx.apply(model, "gmp", include="head", sparsity=0.5)
    sparsify_fx.apply(
        model, "gmp", exclude="head", budget=MACs(left=0.3), example_inputs=X[:1]
    )
    (met,) = met_by(model)
    assert met.dense == DENSE - 160
    scheduler = train(model)
    again = net()
    sparsify_fx.apply(again, "gmp", include="head", sparsity=0.5)
    sparsify_fx.apply(
        again, "gmp", exclude="head", sparsity=met.sparsity, allocation=met.allocation
    )
    optimizer = torch.optim.SGD(again.parameters(), lr=0.05)
    other = sparsify_fx.Scheduler(again, optimizer, epochs=4, steps_per_epoch=2)
    again.load_state_dict(model.state_dict())
    # What the budget found can be written down, and is the same schedule.
    other.load_state_dict(scheduler.state_dict())
    assert other.finished
    assert met_by(copy.deepcopy(model)) == (met,)


def test_names_mappings_and_objects() -> None:
    assert find_budget("macs") == MACs()
    assert find_budget({"name": "macs", "left": 0.5}) == MACs(0.5)
    assert find_budget(MACs(7)) == MACs(7)
