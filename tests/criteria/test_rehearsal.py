"""Rehearsals find what would fail late, and leave nothing behind; models without vmap rules are scored in a loop."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sparsify_fx.criteria import (
    CRITERIA,
    Fisher,
    FunctionCriterion,
    GraSP,
    Synflow,
    WoodFisher,
    rehearse,
)
from sparsify_fx.errors import LayerError, MethodError
from tests.conftest import batch, small_net
from tests.criteria.common import context_of, scores_of, weights_of
from tests.criteria.test_modes import OnceAct, net_with


class Cells(nn.Module):
    """A recurrent cell over the rows of its inputs."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = kind(6, 8), nn.Linear(8, 3)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for row in x.unbind(1):
            state = self.cell(row, state)
        outputs: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return outputs


class Custom(torch.autograd.Function):
    """Without setup_context: torch.func refuses it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2)


class Loops(nn.Module):
    """A custom function, control flow by values, and an activation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.act = (
            nn.Linear(30, 8),
            nn.Linear(8, 3),
            nn.RReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = Custom.apply(self.first(x.flatten(1)))
        if hidden.sum() > 0:
            hidden = hidden * 2
        outputs: Tensor = self.second(self.act(hidden))
        return outputs


def rows(size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(
        size, 5, 6, generator=generator, dtype=torch.float64
    ), torch.arange(size) % 3


MODELS = [
    *(
        pytest.param(lambda k=k: Cells(k), id=k.__name__)
        for k in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
    ),
    pytest.param(Loops, id="Loops"),
]


@pytest.mark.parametrize("make", MODELS)
def test_models_without_rules_have_the_scores_of_a_loop_over_samples(make: Any) -> None:
    model = make().double()
    inputs, labels = rows()
    twin, singles = copy.deepcopy(model).eval(), []
    for i in range(len(inputs)):
        twin.zero_grad()
        F.cross_entropy(twin(inputs[i : i + 1]), labels[i : i + 1]).backward()
        singles.append(
            {name: twin.get_parameter(name).grad.clone() for name in weights_of(model)}
        )  # type: ignore[union-attr]
    given: dict[str, Any] = {"batches": [(inputs, labels)]}
    fisher = scores_of(Fisher(chunk=2), model, **given)
    wood = scores_of(WoodFisher(block=1, damping=1e-3, chunk=2), model, **given)
    for name, weight in weights_of(model).items():
        mean = torch.stack([single[name] for single in singles]).square().mean(0)
        torch.testing.assert_close(
            fisher[name], 0.5 * weight.square() * mean, rtol=1e-9, atol=1e-16
        )
        torch.testing.assert_close(
            wood[name], 0.5 * weight.square() * (mean + 1e-3), rtol=1e-4, atol=1e-12
        )
    for criterion in (CRITERIA["snip"], GraSP()):
        assert all(
            torch.isfinite(score).all()
            for score in scores_of(criterion, model, **given).values()
        )


class Odd(nn.Module):
    """Works in training, fails on single samples in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise TypeError("one sample alone cannot be contrasted")
        outputs: Tensor = self.linear(x.flatten(1))
        return outputs


@pytest.mark.parametrize("criterion", [Fisher(), WoodFisher()])
def test_what_would_fail_late_fails_in_the_rehearsal(criterion: Any) -> None:
    with pytest.raises(
        MethodError, match=r"cannot score this model .* TypeError: one sample alone"
    ):
        rehearse(criterion, context_of(Odd(), batches=[rows()]))
    with pytest.raises(MethodError, match="an entry for every input"):
        rehearse(
            criterion,
            context_of(
                net_with(nn.Tanh()), batches=[(batch()[0].double(), torch.tensor(1))]
            ),
        )
    with pytest.raises(MethodError, match="batches= is empty"):
        rehearse(criterion, context_of(net_with(nn.Tanh()), batches=[]))


def test_a_missing_second_derivative_is_found_in_the_rehearsal() -> None:
    with pytest.raises(LayerError, match=r"1 \(OnceAct\) has none"):
        rehearse(GraSP(), context_of(net_with(OnceAct())))


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Draws from every random state there is."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return batch()[0][index] + noise, batch()[1][index]


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "masks-of"])
def test_a_rehearsal_leaves_nothing_behind(criterion: str) -> None:
    model = small_net()
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, generator=generator)
    context = context_of(model, batches=loader)
    rule: Any = CRITERIA[criterion]

    def facts() -> list[Any]:
        tensors = {key: value.clone() for key, value in model.state_dict().items()}
        flags = [module.training for module in model.modules()]
        states = [
            torch.get_rng_state(),
            generator.get_state(),
            context.generator.get_state(),
        ]
        return [
            tensors,
            flags,
            states,
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]  # type: ignore[index]

    before = facts()
    rehearse(rule() if isinstance(rule, type) else rule, context)
    after = facts()
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert before[1] == after[1]
    assert all(map(torch.equal, before[2], after[2]))
    assert before[3:] == after[3:]


def test_iterators_that_can_be_read_once_are_not_touched() -> None:
    once: Iterator[Any] = iter([rows()])
    rehearse(Fisher(), context_of(Odd(), batches=once))
    assert len(list(once)) == 1


def test_a_rehearsal_is_short() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            outputs: Tensor = self.linear(x.flatten(1))
            return outputs

    loader = DataLoader(TensorDataset(*batch(size=16)), batch_size=8)
    for criterion, most in (
        (Fisher(), 2),
        (WoodFisher(), 2),
        (Synflow(), 1),
        (CRITERIA["snip"], 8),
    ):
        seen.clear()
        rehearse(criterion, context_of(Counting(), batches=loader))
        assert sum(seen) <= most, criterion


def test_users_criteria_are_rehearsed_where_they_need_something() -> None:
    calls: list[int] = []

    def failing(context: Any) -> dict[str, Tensor]:
        calls.append(1)
        raise KeyError("stem")

    with pytest.raises(
        MethodError, match=r"mine cannot score this model .* KeyError: 'stem'"
    ):
        rehearse(
            FunctionCriterion("mine", failing, ("model", "batches")),
            context_of(small_net()),
        )
    rehearse(FunctionCriterion("mine", failing, ()), context_of(small_net()))
    assert len(calls) == 1
