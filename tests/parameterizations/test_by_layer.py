"""Parameterizations by layer: chosen by name, checked, saved, resumed, told, in recipes; the laws hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.cli.methods import axis_text
from sparsify_fx.errors import LayerError, MethodError, SparsifyError
from sparsify_fx.parameterizations import ByLayer, Dense, Product, SigmoidGate
from sparsify_fx.passes.prepare import assigned
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.parameter_groups import parameter_groups
from sparsify_fx.recipe import METHODS, Axes, Method, axis_value, describe, find_method
from sparsify_fx.testing import check_method
from sparsify_fx.train import load_config
from sparsify_fx.train.restore import load_trained
from tests.conftest import effective, small_net, train_step

FC = {"7": Product(beta=2.0), "*": "dense"}


def how(model: nn.Module) -> dict[str, Any]:
    return {name: program.parameterization for name, program in programs(model).items()}


def test_each_layer_is_made_of_what_its_name_says() -> None:
    model = sparsify_fx.apply(small_net(), "signin", sparsity=0.5, parameterization=FC)
    assert how(model) == {
        "0.weight": Dense(),
        "3.weight": Dense(),
        "7.weight": Product(beta=2.0),
    }
    one = sparsify_fx.apply(small_net(), "random", sparsity=0.5)
    assert all(
        torch.equal(effective(one)[n], w) for n, w in list(effective(model).items())[:2]
    ), "the same masks"


NAMES = ["stem.conv.weight", "body.a.weight", "body.b.weight", "head.weight"]


@pytest.mark.parametrize("turned", [False, True])
def test_the_narrowest_pattern_counts_in_any_order(turned: bool) -> None:
    given = [
        ("*", Dense()),
        ("body", Product(beta=2.0)),
        ("body.a", Product(beta=3.0)),
        ("h*", Product(beta=4.0)),
    ]
    chosen = assigned(ByLayer(dict(given[::-1] if turned else given)), NAMES)
    assert [getattr(chosen[name], "beta", None) for name in NAMES] == [
        None,
        3.0,
        2.0,
        4.0,
    ]


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (
            {"8": "product", "*": "dense"},
            LayerError,
            "unknown pattern of prunable layers '8'",
        ),
        ({"7": "product"}, LayerError, "no pattern matches 0.weight; name it too"),
        (
            {"[07]": "product", "[37]": "dense", "*": "dense"},
            LayerError,
            "both match 7.weight",
        ),
        ({"7": "prodcut", "*": "dense"}, SparsifyError, "did you mean 'product'?"),
        ({"7": {"name": "product", "beta": -1}, "*": "dense"}, MethodError, "beta=-1"),
        ({"7": {"*": "dense"}}, MethodError, "expected a mapping with 'name'"),
        ({"beta": 2.0}, MethodError, "expected a mapping with 'name'"),
        ({}, MethodError, "no layer is named"),
        ({7: "dense"}, MethodError, "7 is no name or pattern"),
        ({"7": Product, "*": "dense"}, MethodError, "expected a name"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    given: Any, kind: type[Exception], told: str
) -> None:
    model = small_net()
    with pytest.raises(kind) as error:
        sparsify_fx.apply(model, "signin", sparsity=0.5, parameterization=given)
    assert told in str(error.value)
    assert not programs(model)


def test_a_layer_that_is_left_out_is_no_match() -> None:
    with pytest.raises(LayerError, match="unknown pattern of prunable layers '0'"):
        sparsify_fx.apply(
            small_net(), exclude="0", parameterization={"0": "product", "*": "dense"}
        )


def follow(
    scheduler: sparsify_fx.Scheduler,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    until: int,
) -> None:
    while scheduler.step_count < until:
        train_step(model, optimizer, scheduler.step_count)
        scheduler.step()


def start() -> tuple[nn.Module, torch.optim.Optimizer, sparsify_fx.Scheduler]:
    model = sparsify_fx.apply(
        small_net(), "lrr+signin", sparsity=0.3, parameterization=FC
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
    )
    return (
        model,
        optimizer,
        sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=2),
    )


def test_saved_and_resumed_told_and_merged() -> None:
    straight, resumed = start(), start()
    follow(straight[2], straight[0], straight[1], 9)
    saved = copy.deepcopy([part.state_dict() for part in straight])
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    for model, optimizer, scheduler in (straight, resumed):
        follow(scheduler, model, optimizer, scheduler.steps)
    ends = straight[0].state_dict(), resumed[0].state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert "7: Product(beta=2.0)" in str(straight[2].timeline())
    other = sparsify_fx.apply(small_net(), "lrr+signin", sparsity=0.3)
    with pytest.raises(RuntimeError, match="they are of different methods"):
        other.load_state_dict(ends[0])
    sparsify_fx.merge(straight[0])
    assert list(straight[0].state_dict()) == list(small_net().state_dict())


def test_penalties_on_gates_count_the_layers_that_have_them() -> None:
    model = sparsify_fx.apply(
        small_net(),
        "cs",
        sparsity=0.5,
        parameterization={"7": SigmoidGate(), "*": "dense"},
    )
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=5, steps_per_epoch=2)
    assert scheduler.penalty().item() > 0
    assert "sigmoid-gate: state changes" in str(scheduler.timeline())
    follow(scheduler, model, optimizer, scheduler.steps)
    assert scheduler.at_sparsity


@pytest.mark.slow
def test_the_laws_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    find_method("dense")
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    by_layer = axis_value(
        "parameterization",
        {"0": "sigmoid-gate", "7": {"name": "product"}, "*": "dense"},
    )
    METHODS.add(
        "mixed",
        Method(
            "mixed", sets=Axes(parameterization=by_layer), suggests=METHODS["lrr"].sets
        ),
    )
    check_method("mixed")


def test_descriptions_are_read_back_and_shown() -> None:
    value = axis_value("parameterization", FC)
    told = describe("parameterization", value)
    assert told == {"7": {"name": "product", "beta": 2.0}, "*": {"name": "dense"}}
    assert axis_value("parameterization", json.loads(json.dumps(told))) == value
    assert axis_text(told) == "*: dense, 7: product(beta=2.0)"


def test_recipes_and_set_take_them_whatever_the_order() -> None:
    given = [
        '{fc3: {name: product, beta: 2.0}, "*": dense}',
        '{"*": dense, fc3: {name: product, beta: 2.0}}',
        "dense",
    ]
    configs = [
        load_config(
            "mnist5k-lenet5", [f"axes.parameterization={text}"], {"method": "cs"}
        )
        for text in given
    ]
    hashes = [config.hash() for config in configs]
    assert hashes[0] == hashes[1] != hashes[2]
    assert configs[0].weight_decay() == 1e-4, (
        "one number: parameter_groups decides by layer"
    )
    assert isinstance(configs[2].weight_decay(), dict)


def test_a_run_is_trained_and_loaded_again(tmp_path: Path) -> None:
    given = 'axes.parameterization={fc3: {name: product, beta: 2.0}, "*": dense}'
    quick = [
        "--set",
        "batch_size=500",
        "--device",
        "cpu",
        "--no-tensorboard",
        "--epochs",
        "2",
        "--runs",
        str(tmp_path),
    ]
    command = ["train", "mnist5k-lenet5", "--method", "signin", "--set", given, *quick]
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, command)
    assert done.exit_code == 0, done.stderr
    assert "fc3: Product(beta=2.0)" in done.stdout
    (folder,) = tmp_path.iterdir()
    ends = [
        load_trained(path).model.state_dict()
        for path in (folder, folder / "checkpoint.pt")
    ]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
