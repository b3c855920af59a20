"""In the trainer, moving weights (RigL) is scored on the batch of its own step; what is decided once, on fixed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify_fx.criteria.base import PruningContext, Scores
from sparsify_fx.criteria.gradients import Snip
from sparsify_fx.scheduler.pruner import Pruner
from sparsify_fx.train import load_config
from sparsify_fx.train.session import build_session
from tests.train.common import quietly, small, write_images


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[Tensor]]]:
    """The inputs that each scoring of `snip` and each moving of weights looked at."""
    found: dict[str, list[list[Tensor]]] = {"regrow": [], "snip": []}
    regrow, snip = Pruner.regrow, Snip.scores

    def watched_regrow(self: Pruner, *args: Any) -> None:
        found["regrow"].append([x.clone() for x, _ in self.inputs.batches or ()])
        regrow(self, *args)

    def watched_snip(self: Snip, context: PruningContext) -> Scores:
        found["snip"].append([x.clone() for x, _ in context.batches or ()])
        return snip(self, context)

    monkeypatch.setattr(Pruner, "regrow", watched_regrow)
    monkeypatch.setattr(Snip, "scores", watched_snip)
    return found


def test_rigl_scores_on_the_batch_of_its_step(
    tmp_path: Path, seen: dict[str, list[list[Tensor]]]
) -> None:
    data = write_images(tmp_path / "mine.npz")
    config = small(
        data,
        "method=rigl",
        "epochs=4",
        "axes.schedule={name: regrow, growth: gradient, every: 0.5}",
    )
    quietly(config, tmp_path / "runs")
    session = build_session(config)
    steps = session.scheduler.steps_per_epoch
    epochs = [[x for x, _ in session.training_batches(epoch)] for epoch in range(1, 5)]
    made = [batch for epoch in epochs for batch in epoch]
    due = [
        event.step
        for event in session.scheduler.timeline().events
        if event.what == "regrow"
    ]
    assert due == [2, 4, 6, 8, 10]
    assert steps == 4
    assert [len(batches) for batches in seen["regrow"]] == [1] * len(due)
    for step, (batch,) in zip(due, seen["regrow"], strict=True):
        assert torch.equal(batch, made[step - 1])


def test_what_is_chosen_once_is_chosen_on_many(
    tmp_path: Path, seen: dict[str, list[list[Tensor]]]
) -> None:
    data = write_images(tmp_path / "mine.npz", count=400)
    config = small(data, "method=rigl", "axes.criterion=snip", "epochs=3")
    quietly(config, tmp_path / "runs")
    assert max(len(batches) for batches in seen["snip"]) == 10
    assert [len(batches) for batches in seen["regrow"]] == [1, 1]


KNOWN = {
    "set": "43935c7d5a",
    "random": "ed7641a699",
    "lrr": "b219621477",
    "snip": "0ba8c1aaee",
}


@pytest.mark.parametrize("method", KNOWN)
def test_the_names_of_runs_stay_those_of_0_1(method: str) -> None:
    assert (
        load_config("mnist5k-lenet5", [f"method={method}", "device=cpu"]).hash()
        == KNOWN[method]
    )


@pytest.mark.parametrize(("method", "then"), [("rigl", "d9d3d2a0d6")])
def test_runs_that_were_scored_on_fixed_batches_are_other_runs(
    method: str, then: str
) -> None:
    assert (
        load_config("mnist5k-lenet5", [f"method={method}", "device=cpu"]).hash() != then
    )
