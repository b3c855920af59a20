"""What cleared entries hold: the values that optimizers' own documentation gives a new parameter."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import schedulefree
import timm.optim
import torch
from torch import Tensor, nn

from sparsify_fx.errors import OptimizerStateWarning
from sparsify_fx.optimizer_states import clear_entries, following, restless, settled

Build = Callable[[nn.Parameter], torch.optim.Optimizer]
ENTRIES = torch.tensor([[True, False, False], [False, True, True]])


def trained(build: Build, steps: int = 4) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    """A parameter [2, 3] and its optimizer after some steps."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(2, 3))
    optimizer = build(parameter)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(steps):
        parameter.grad = torch.randn(2, 3)
        optimizer.step()
    return parameter, optimizer


def state_of(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter
) -> dict[str, Tensor]:
    return {
        k: v.clone()
        for k, v in optimizer.state[parameter].items()
        if isinstance(v, Tensor)
    }


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.1),
            {"momentum_buffer": 0.0},
        ),
        (
            lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
            {"momentum_buffer": 0.0},
        ),
        (
            lambda p: torch.optim.Adam([p], lr=0.1, amsgrad=True),
            dict.fromkeys(("exp_avg", "max_exp_avg_sq"), 0.0),
        ),
        (
            lambda p: torch.optim.AdamW([p], lr=torch.tensor(0.1)),
            {"exp_avg": 0.0, "exp_avg_sq": 0.0},
        ),
        (lambda p: torch.optim.NAdam([p], lr=0.1), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
        (lambda p: torch.optim.Rprop([p], lr=0.03), {"prev": 0.0, "step_size": 0.03}),
        (
            lambda p: torch.optim.Adagrad([p], lr=0.1, initial_accumulator_value=0.7),
            {"sum": 0.7},
        ),
        (
            lambda p: torch.optim.Adadelta([p], lr=0.1),
            {"square_avg": 0.0, "acc_delta": 0.0},
        ),
        (
            lambda p: torch.optim.RMSprop([p], lr=0.1, centered=True, momentum=0.5),
            {"grad_avg": 0.0},
        ),
        (
            lambda p: timm.optim.RMSpropTF([p], lr=0.1, momentum=0.9),
            {"square_avg": 1.0, "momentum_buffer": 0.0},
        ),
        (
            lambda p: pytorch_optimizer.load_optimizer("adai")([p], lr=0.1),
            {"beta1_prod": 1.0, "exp_avg": 0.0},
        ),
        (
            lambda p: pytorch_optimizer.load_optimizer("yogi")([p], lr=0.1),
            {"exp_avg_sq": 1e-6},
        ),
        (lambda p: pytorch_optimizer.load_optimizer("vsgd")([p], lr=0.1), {"mug": 0.0}),
        (
            lambda p: pytorch_optimizer.load_optimizer("dadaptadagrad")([p], lr=1.0),
            {"alpha_k": 1e-6, "sk": 0.0},
        ),
    ],
)
def test_cleared_entries_hold_the_first_value_and_others_their_bits(
    build: Build, expected: dict[str, float]
) -> None:
    parameter, optimizer = trained(build)
    before, values = state_of(optimizer, parameter), parameter.detach().clone()
    clear_entries([optimizer], parameter, ENTRIES)
    after = state_of(optimizer, parameter)
    assert torch.equal(parameter, values)
    for key, value in expected.items():
        assert (before[key][ENTRIES] != value).any(), (
            "a comparison with what was there already would show nothing"
        )
        assert torch.equal(after[key][ENTRIES], torch.full((3,), value)), key
    for key, value in before.items():
        kept = (
            ~ENTRIES
            if value.shape == ENTRIES.shape
            else torch.ones_like(value, dtype=torch.bool)
        )
        assert torch.equal(after[key][kept], value[kept]), key


@pytest.mark.parametrize(
    ("build", "copies"),
    [
        (lambda p: schedulefree.SGDScheduleFree([p], lr=0.1), {"z"}),
        (
            lambda p: schedulefree.AdamWScheduleFree([p], lr=0.1, weight_decay=0.1),
            {"z"},
        ),
        (
            lambda p: schedulefree.AdamWScheduleFreeReference([p], lr=0.1),
            {"x", "y", "z"},
        ),
        (lambda p: timm.optim.MADGRAD([p], lr=0.1), {"x0"}),
        (lambda p: pytorch_optimizer.load_optimizer("prodigy")([p]), {"p0"}),
        (
            lambda p: pytorch_optimizer.load_optimizer("ranger")([p], lr=0.1),
            {"slow_buffer"},
        ),
        (
            lambda p: pytorch_optimizer.load_optimizer("schedulefreeadamw")(
                [p], lr=0.1
            ),
            {"z"},
        ),
    ],
)
def test_copies_of_the_parameter_follow_it(build: Build, copies: set[str]) -> None:
    parameter, optimizer = trained(build)
    with torch.no_grad():
        parameter.masked_fill_(ENTRIES, 0.25)
    clear_entries([optimizer], parameter, ENTRIES)
    for key in copies:
        assert torch.equal(
            optimizer.state[parameter][key][ENTRIES], torch.full((3,), 0.25)
        ), key
    with following([optimizer], [parameter]), torch.no_grad():
        parameter[0, 1] = -3.0
    for key in copies:
        assert float(optimizer.state[parameter][key][0, 1]) == -3.0, key


@pytest.mark.parametrize("wrap", ["timm", "pytorch_optimizer", "schedulefree"])
def test_wrappers_are_looked_through(wrap: str) -> None:
    wrappers = {
        "timm": lambda base: timm.optim.Lookahead(base, k=2),
        "pytorch_optimizer": lambda base: pytorch_optimizer.Lookahead(base, k=2),
        "schedulefree": schedulefree.ScheduleFreeWrapper,
    }
    parameter, optimizer = trained(
        lambda p: wrappers[wrap](torch.optim.SGD([p], lr=0.1, momentum=0.9))
    )
    with torch.no_grad():
        parameter.masked_fill_(ENTRIES, 0.0)
    clear_entries([optimizer], parameter, ENTRIES)
    for _ in range(4):  # two rounds of Lookahead: nothing old comes back
        parameter.grad = torch.where(ENTRIES, 0.0, torch.randn(2, 3))
        optimizer.step()
        assert not parameter[ENTRIES].any()
    assert parameter[~ENTRIES].all()


def test_nothing_else_is_touched_by_asking() -> None:
    parameter, optimizer = trained(lambda p: torch.optim.Adam([p], lr=0.1))
    seed, groups = (
        torch.get_rng_state(),
        copy.deepcopy(optimizer.state_dict()["param_groups"]),
    )
    clear_entries([optimizer], parameter, ENTRIES)
    assert torch.equal(seed, torch.get_rng_state())
    assert optimizer.state_dict()["param_groups"] == groups
    assert list(optimizer.state) == [parameter]


def drawn() -> tuple[Any, ...]:
    """Where the three sources of random numbers are."""
    state = np.random.get_state(legacy=False)["state"]
    return (
        random.getstate(),
        state["pos"],
        state["key"].tolist(),
        torch.get_rng_state().tolist(),
    )


def test_no_source_of_random_numbers_moves() -> None:
    """kron draws from numpy, gravity from torch."""
    for name in ("kron", "gravity"):
        parameter, optimizer = trained(
            lambda p, name=name: pytorch_optimizer.load_optimizer(name)([p], lr=0.1)
        )
        before = drawn()
        shares = (
            pytest.warns(OptimizerStateWarning)
            if name == "kron"
            else contextlib.nullcontext()
        )
        with shares:
            clear_entries([optimizer], parameter, ENTRIES)
        restless([optimizer], parameter)
        assert before == drawn()


def test_settled_state_is_fresh_but_for_its_counters() -> None:
    parameter, optimizer = trained(lambda p: torch.optim.NAdam([p], lr=0.1))
    counters = {
        key: optimizer.state[parameter][key].clone() for key in ("step", "mu_product")
    }
    settled([optimizer], parameter)
    state = optimizer.state[parameter]
    assert not state["exp_avg"].any()
    assert not state["exp_avg_sq"].any()
    assert {key: state[key] for key in counters} == counters
    threshold = nn.Parameter(torch.tensor(0.5))
    optimizer = torch.optim.Adam([threshold], lr=0.1)
    threshold.grad = torch.tensor(1.0)
    optimizer.step()
    settled([optimizer], threshold)
    assert [
        float(optimizer.state[threshold][key])
        for key in ("step", "exp_avg", "exp_avg_sq")
    ] == [1, 0, 0]


def test_shared_state_is_named_once_and_settled_as_a_whole() -> None:
    parameter, optimizer = trained(lambda p: torch.optim.Adafactor([p], lr=0.1))
    with pytest.warns(
        OptimizerStateWarning,
        match="Adafactor: col_var, row_var belong to several weights",
    ):
        clear_entries([optimizer], parameter, ENTRIES)
    clear_entries([optimizer], parameter, ENTRIES)
    assert optimizer.state[parameter]["row_var"].any()
    settled([optimizer], parameter)
    assert not optimizer.state[parameter]["row_var"].any()


def test_what_moves_without_a_gradient_is_noticed() -> None:
    weight = nn.Parameter(torch.randn(8, 8))
    still = [
        torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1),
        torch.optim.AdamW([weight]),
    ]
    still += [
        schedulefree.AdamWScheduleFree([weight]),
        timm.optim.Lookahead(torch.optim.Adam([weight])),
    ]
    moving = [
        torch.optim.Muon([weight]),
        pytorch_optimizer.load_optimizer("shampoo")([weight]),
    ]
    assert [restless([optimizer], weight) for optimizer in still] == [False] * len(
        still
    )
    assert [restless([optimizer], weight) for optimizer in moving] == [True] * len(
        moving
    )


def test_a_history_for_all_parameters_starts_again() -> None:
    parameter = nn.Parameter(torch.randn(2, 3))
    optimizer = torch.optim.LBFGS([parameter], lr=0.1)

    def closure() -> Tensor:
        parameter.grad = None
        loss = (parameter**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.state[parameter]["old_dirs"]
    clear_entries([optimizer], parameter, ENTRIES)
    assert not optimizer.state
