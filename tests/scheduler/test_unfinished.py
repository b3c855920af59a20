"""A model that has another sparsity than it was asked for says so on its way out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import UnfinishedWarning
from sparsify_fx.scheduler.unfinished import unfinished
from tests.conftest import batch, small_net, train_step


def started(method: str, sparsity: float, steps: int) -> nn.Module:
    model = sparsify_fx.apply(small_net(), method, sparsity=sparsity)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=5, steps_per_epoch=4)
    for _ in range(steps):
        train_step(model, optimizer)
        scheduler.step()
    return model


@pytest.mark.parametrize(
    ("method", "steps", "has"),
    [("gmp", 9, "0.5013 (395)"), ("lrr", 20, "0.1995 (634)"), ("str", 11, "0 (792)")],
)
def test_both_numbers_and_the_step_are_named(method: str, steps: int, has: str) -> None:
    model = started(method, 0.75, steps)
    (told,) = unfinished(model)
    assert told.startswith(
        f"{method} was asked for sparsity 0.75 (198 of 792 weights), the model has {has}"
    )
    assert f"after step {steps} of " in told
    with pytest.warns(
        UnfinishedWarning,
        match=rf"{method} was asked for sparsity 0\.75 .* after step {steps} of ",
    ):
        sparsify_fx.dense_state_dict(model)
    with pytest.warns(
        UnfinishedWarning, match="the model is merged before its schedule has ended"
    ):
        sparsify_fx.merge(model)


def test_the_export_warns_and_its_report_keeps_the_note(tmp_path: object) -> None:
    model = started("gmp", 0.9, 8).eval()
    with pytest.warns(
        UnfinishedWarning, match="the model is exported before"
    ) as caught:
        report = sparsify_fx.export(model, f"{tmp_path}/early.onnx", batch()[0][:2])
    assert len(caught) == 1
    assert report.notes == unfinished(model)
    assert report.notes[0] in str(report)


def test_copies_and_loaded_models_know_it_too() -> None:
    model = started("gmp", 0.9, 8)
    other = sparsify_fx.apply(small_net(1), "gmp", sparsity=0.9)
    other.load_state_dict(model.state_dict())
    assert unfinished(other) == unfinished(model) != ()


@pytest.mark.parametrize("method", ["random", "signin", "dense"])
def test_what_has_its_sparsity_leaves_without_a_word(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsify_fx.merge(started(method, 0.75, 3))
        finished = started("gmp", 0.75, 20)
        assert unfinished(finished) == ()
        sparsify_fx.merge(finished)
    assert unfinished(small_net()) == ()
