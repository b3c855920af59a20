"""bench: what it measures, that memory adds up, and its command."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.errors import ConfigError, MethodError, UnknownNameError
from sparsify_fx.registry import Registry
from sparsify_fx.training_cost.allocations import (
    Allocation,
    alive_at_peak,
    allocations,
    peak_of,
)
from sparsify_fx.training_cost.memory import GRADIENTS, KINDS, MADE, memory_of
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.trainee import Case, Trainee
from sparsify_fx.zoo.models import MODELS

TINY = {"batch": 4, "rounds": 2}
WEIGHTS, BIASES = 784 * 64 + 64 * 10, 64 + 10


@pytest.fixture(autouse=True)
def tiny() -> Any:
    """A model "tiny" for images of 28 pixels and one channel of three, with two linear layers."""
    add(MODELS)
    yield
    del MODELS._entries["tiny"]


def add(models: Registry[Any]) -> None:
    models.add(
        "tiny",
        lambda spec: nn.Sequential(
            nn.AdaptiveAvgPool3d((1, 28, 28)),
            nn.Flatten(),
            nn.Linear(784, 64),
            nn.ReLU(),
            nn.Linear(64, spec.num_classes),
        ),
    )


def test_full_and_living_are_measured_beside_dense_twice() -> None:
    cost = sparsify_fx.bench("tiny", **TINY)
    assert list(cost.cases) == ["dense", "signin full", "signin living", "dense again"]
    assert all(len(case.steps) == 2 for case in cost.cases.values())
    assert cost.ratio("dense") == 1
    assert all(case.prune_events == [] for case in cost.cases.values())
    assert all(case.graphs == case.recompiles == 0 for case in cost.cases.values())
    assert json.loads(json.dumps(cost.to_dict()))["surroundings"]["threads"] == 1
    times, memory = cost.grids()
    assert [row[0] for row in times.rows] == list(cost.cases)
    assert [row[0] for row in memory.rows] == list(cost.cases)[:-1]


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adamw"])
def test_bytes_are_those_of_the_tensors(optimizer: str) -> None:
    cost = sparsify_fx.bench("tiny", optimizer=optimizer, **TINY)
    dense, full, living = (
        cost.cases[name].memory for name in ("dense", "signin full", "signin living")
    )
    assert dense is not None
    assert full is not None
    assert living is not None
    kept = WEIGHTS - round(0.9 * WEIGHTS)
    moments = 2 if optimizer == "adamw" else 1
    for found, entries, factors in ((dense, WEIGHTS, 1), (full, WEIGHTS, 2), (living, kept, 2)):  # fmt: skip
        assert list(found.kept) == list(KINDS)
        assert found.kept["weights"] == 4 * (factors * entries + BIASES)
        assert found.kept["gradients"] == found.kept["weights"]
        # AdamW counts steps, in a tensor for each parameter.
        rest = found.kept["optimizer state"] - moments * found.kept["weights"]
        assert 0 <= rest <= 24
        assert found.peak == sum(found.at_peak.values()) <= found.with_activations
    assert (dense.kept["masks"], full.kept["masks"]) == (0, WEIGHTS)
    assert living.kept["masks"] == WEIGHTS
    assert living.kept["indices"] == 4 * kept
    assert living.peak < dense.peak < full.peak
    assert living.checkpoint < dense.checkpoint < full.checkpoint


def test_the_peak_does_not_depend_on_the_batch() -> None:
    peaks = set()
    for batch in (16, 64):
        setting = Setting("tiny", batch)
        memory = memory_of(Trainee(Case("dense", setting.model), setting))
        peaks.add(memory.peak)
        # Weights, momentum and gradients of plain layers, and little more.
        assert 12 * WEIGHTS <= memory.peak <= 12 * WEIGHTS + 2000
        assert memory.at_peak[GRADIENTS] >= 4 * WEIGHTS - memory.at_peak[MADE]
    assert max(peaks) - min(peaks) < 2000


@pytest.mark.sweep
def test_a_method_that_prunes_is_measured_at_its_last_sparsity() -> None:
    cost = sparsify_fx.bench("tiny", method="lrr", storage=["living"], **TINY)
    case = cost.cases["lrr living"]
    assert len(case.prune_events) == 11
    assert case.memory is not None
    kept = WEIGHTS - round(0.9 * WEIGHTS)
    assert abs(case.memory.kept["indices"] - 4 * kept) <= 4


@pytest.mark.slow
@pytest.mark.sweep
def test_compiled_models_do_not_compile_again_when_masks_change() -> None:
    cost = sparsify_fx.bench(
        "tiny", method="lrr+signin", compile=True, storage=["living"], **TINY
    )
    case = cost.cases["lrr+signin living"]
    assert (case.graphs, case.recompiles) == (1, 0)
    assert case.first_step > 2 * case.median
    assert case.memory is not None


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    sparsify_fx.bench("tiny", threads=2, storage=[], **TINY)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"work": "nope"}, UnknownNameError, "nope"),
        ({"optimizer": "sgd"}, UnknownNameError, "sgd-momentum"),
        ({"batch": 1}, ConfigError, "batch=1 must be at least 2"),
        ({"rounds": 0}, ConfigError, "rounds=0"),
        ({"device": "cuda:99"}, ConfigError, "cannot be used here"),
        ({"method": "dense", "storage": ["living"]}, MethodError, "storage='auto'"),
    ],
)
def test_what_cannot_be_is_told(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        sparsify_fx.bench(**{"work": "tiny", **TINY, **options})


def test_allocations_are_seen_inside_of_operators_and_with_their_end() -> None:
    left = []

    def run() -> None:
        left.append(torch.ones(256))
        torch.ones(512)

    events = allocations(run, torch.device("cpu"))
    assert [event.size for event in events if abs(event.size) >= 1024] == [1024, 2048, -2048]  # fmt: skip
    assert events[0].address == left[0].data_ptr()


def test_the_peak_is_that_of_what_is_counted() -> None:
    events = [Allocation(1, 10), Allocation(2, 99), Allocation(3, 5), Allocation(1, -10), Allocation(1, 7)]  # fmt: skip
    assert peak_of(events, 100) == 214
    assert alive_at_peak(events, lambda size: size != 99) == [0, 2]


def test_the_command_prints_both_tables_and_writes_json() -> None:
    arguments = ["bench", "tiny", "--batch", "4", "--rounds", "1", "--storage", "living"]  # fmt: skip
    runner = CliRunner(env={"COLUMNS": "200"})
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "signin living" in shown.stdout
    assert "beyond activations" in shown.stdout
    document = json.loads(runner.invoke(app, [*arguments, "--json", "-"]).stdout)
    assert set(document["cases"]) == {"dense", "signin living", "dense again"}
    refused = runner.invoke(app, ["bench", "tiny", "--optimizer", "nope"])
    assert refused.exit_code == 2
    assert "unknown optimizer 'nope'" in refused.stderr
