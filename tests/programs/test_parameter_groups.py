"""On which parameters weight decay falls, by method, and what the trainer makes of it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import sparsify_fx
from sparsify_fx.errors import (
    ConfigError,
    OptimizerStateWarning,
    SparsifyError,
    UnknownNameError,
)
from sparsify_fx.programs.parameter_groups import GROUPS
from sparsify_fx.train import load_config, train
from sparsify_fx.train.optimizers import OPTIMIZERS
from sparsify_fx.train.session import build_session
from tests.conftest import small_net


class Net(nn.Module):
    """A convolution, a norm with two axes, an embedding and a head: parameters of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(6, 8)
        self.norm = nn.LayerNorm((4, 8))
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.embedding(tokens)))
        return out


def groups_of(
    method: str, weight_decay: Any = 0.5, **axes: Any
) -> dict[str, tuple[int, Any]]:
    """(entries, decay) by group, of a net with one prunable weight of 40 entries."""
    model = sparsify_fx.apply(
        Net(), method, sparsity=0.5, exclude=["embedding"], **axes
    )
    groups = sparsify_fx.parameter_groups(model, weight_decay)
    every = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in every} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    assert len(every) == len({id(p) for p in every})
    return {
        g["name"]: (sum(p.numel() for p in g["params"]), g.get("weight_decay"))
        for g in groups
    }


REST = {"norms": (69, 0.5), "other": (48, 0.5)}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # Half of the 40 entries live, and these methods store no others.
        ("random", {"factors": (20, 0.5)}),
        ("lrr", {"factors": (40, 0.5)}),
        ("signin", {"factors": (40, 0.5)}),
        ("pilot", {"factors": (80, 0.0)}),
        ("pilot-init", {"factors": (80, 0.0)}),
        ("spred", {"factors": (80, 0.0)}),
        ("lrr+pilot", {"factors": (80, 0.0)}),
        ("str", {"factors": (40, 0.5), "shared": (1, 0.0)}),
        ("cs", {"factors": (40, 0.5), "shared": (40, 0.0)}),
        ("l0", {"factors": (40, 0.5), "shared": (40, 0.0)}),
    ],
)
def test_the_decay_falls_where_the_method_lets_it(
    method: str, expected: dict[str, Any]
) -> None:
    assert groups_of(method) == expected | REST


def test_thresholds_without_a_penalty_of_their_own_are_decayed_with_the_rest() -> None:
    assert groups_of("str", penalty="none")["shared"] == (1, 0.5)


def test_decays_can_be_set_by_group_or_left_to_the_optimizer() -> None:
    assert groups_of("pilot", {"factors": 0.1, "other": 0.2}) == {
        "factors": (80, 0.1),
        "norms": (69, 0.0),
        "other": (48, 0.2),
    }
    assert groups_of("spred", None) == {
        "factors": (80, 0.0),
        "norms": (69, None),
        "other": (48, None),
    }
    model = sparsify_fx.apply(small_net(), "pilot", sparsity=0.5)
    optimizer = torch.optim.AdamW(
        sparsify_fx.parameter_groups(model, lr=0.3), weight_decay=0.02
    )
    assert [
        (group["lr"], group["weight_decay"]) for group in optimizer.param_groups
    ] == [(0.3, 0.0), (0.3, 0.02)]


@pytest.mark.parametrize(
    "wrong", [-1.0, float("nan"), "1e-4", True, {"factors": -1e-4}]
)
def test_a_decay_that_is_none_is_named(wrong: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"weight_decay=.* must be a finite number >= 0"
    ):
        groups_of("random", wrong)
    with pytest.raises(
        UnknownNameError,
        match="unknown parameter group 'factor'; did you mean 'factors'",
    ):
        groups_of("random", {"factor": 1e-4})


def test_each_part_follows_its_own_method() -> None:
    net = small_net()
    sparsify_fx.apply(net[0], "pilot", sparsity=0.5)
    sparsify_fx.apply(net[7], "random", sparsity=0.5)
    groups = sparsify_fx.parameter_groups(net, 1e-3)
    told = {
        group["name"]: (len(group["params"]), group["weight_decay"]) for group in groups
    }
    assert told["factors"] == (1, 1e-3)
    assert told["factors without decay"] == (2, 0.0)
    assert str(groups).count("factors") == 2
    assert "0.001" in str(groups)


def test_a_step_decays_what_the_groups_say() -> None:
    model = sparsify_fx.apply(Net(), "spred", sparsity=0.5, exclude=["embedding"])
    groups = sparsify_fx.parameter_groups(model, weight_decay=0.5)
    before = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters()
    }
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = (
            torch.zeros_like(parameter) if parameter.requires_grad else None
        )
    optimizer.step()
    for name, parameter in model.named_parameters():
        stays = "_program." in name or name == "frozen"
        torch.testing.assert_close(
            parameter.detach(), before[name] * (1 if stays else 0.95)
        )


# ------------------------------------------------------------------ the trainer


def config(method: str, *overrides: str) -> Any:
    return load_config(
        "mnist5k-lenet5", [*overrides, "epochs=2", "device=cpu"], {"method": method}
    )


def test_a_configuration_says_where_its_decay_falls() -> None:
    assert config("random").decays() == dict.fromkeys(GROUPS, 1e-4)
    assert config("spred").decays() == {
        "factors": 0.0,
        "shared": 1e-4,
        "norms": 1e-4,
        "other": 1e-4,
    }
    set_by_hand = config("spred", "optimizer.weight_decay={factors: 0.1}")
    assert set_by_hand.decays() == {
        "factors": 0.1,
        "shared": 0.0,
        "norms": 0.0,
        "other": 0.0,
    }
    adamw = config("spred", "optimizer={name: adamw, lr: 0.001}")
    assert adamw.decays() == {
        "factors": 0.0,
        "shared": 0.01,
        "norms": 0.01,
        "other": 0.01,
    }
    with pytest.raises(SparsifyError, match="unknown parameter group 'biases'"):
        config("random", "optimizer.weight_decay={biases: 0.1}")
    with pytest.raises(SparsifyError, match=r"weight_decay=-0\.1"):
        config("random", "optimizer.weight_decay=-0.1")


def test_the_hash_tells_decays_apart_and_only_these() -> None:
    everything = "optimizer.weight_decay={factors: 1.0e-4, shared: 1.0e-4, norms: 1.0e-4, other: 1.0e-4}"
    default = "optimizer.weight_decay={factors: 0, shared: 1.0e-4, norms: 1.0e-4, other: 1.0e-4}"
    assert config("random").hash() == config("random", everything).hash()
    assert config("spred").hash() == config("spred", default).hash()
    assert config("spred").hash() != config("spred", everything).hash()
    assert config("random").hash() != config("random", default).hash()
    without = "optimizer.weight_decay=0"
    assert (
        config("spred", without).hash()
        == config("spred", without, "data_root=elsewhere").hash()
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_groups(name: str) -> None:
    override = f"optimizer={{name: {name}, lr: 0.001}}"
    if name == "muon":
        with pytest.raises(SparsifyError, match="Muon only supports 2D parameters"):
            build_session(config("pilot", override))
        return
    shares = (
        pytest.warns(OptimizerStateWarning)
        if name == "adafactor"
        else contextlib.nullcontext()
    )
    with shares:
        session = build_session(config("pilot", override))
    assert [group["name"] for group in session.optimizer.param_groups] == [
        "factors",
        "norms",
    ]
    assert session.optimizer.param_groups[0].get("weight_decay", 0.0) == 0.0


def test_training_prints_the_groups(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    train(
        config("pilot", "epochs=1", "model=lenet300"),
        runs_dir=tmp_path,
        console=console,
        tensorboard=False,
    )
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "parameter groups" in shown
    rows = [
        line.split()
        for line in shown.splitlines()
        if "what prunable weights are made of" in line
    ]
    assert rows[0][-2] == "0"
