"""`train` on one, two and four processes: the same weights and masks, whatever their number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsify_fx
from sparsify_fx.train.restore import load_trained
from tests.common import swept
from tests.distributed.training import train_on
from tests.train.test_resume import assert_same

FIXED = "accumulate=4"
SHORT = ["method=rigl+signin", "model=lenet5-bn", "epochs=3", "sparsity=0.8", FIXED]
METHODS = {
    "lrr+signin": ["epochs=1", "sparsity=0.36"],
    "acdc+signin": ["epochs=8", "sparsity=0.8", "batch_size=1000"],
    "rigl": ["epochs=4", "sparsity=0.8", "batch_size=400"],
    "gmp": ["epochs=4", "sparsity=0.8", "batch_size=400"],
    "snip": ["epochs=2", "sparsity=0.8"],
    "woodfisher": ["epochs=3", "sparsity=0.8", "batch_size=400"],
    "l0": ["epochs=2", "sparsity=0.5", "batch_size=400"],
    "pilot": ["epochs=2", "sparsity=0.5", "batch_size=400"],
    "signin": ["model=lenet5-bn", "epochs=1", "storage=living"],
    "rigl+signin": ["model=lenet5-bn", "epochs=3", "batch_size=400"],
    "random": [
        "model=lenet5-bn",
        "epochs=2",
        "mixup=0.2",
        "cutmix=1.0",
        "clip_grad_norm=1.0",
        "ema={decay: 0.9}",
        "validation=0.1",
    ],
}
ALL = [[f"method={method}", *given, FIXED] for method, given in METHODS.items()]
SNIP = ["method=snip", "epochs=1", "sparsity=0.8"]
LOOSE = [
    SNIP,
    ["method=signin", "model=lenet5-bn", "epochs=1", "batch_size=400"],
    ["method=signin", "model=lenet5-bn", "epochs=1", "sync_batch_norm=false"],
]


Trained = Callable[[int, str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The outcomes of all configurations of a list, by so many processes; each list is trained once."""

    @functools.cache
    def of(processes: int, which: str) -> list[dict[str, Any]]:
        configurations = {"all": ALL, "short": [SHORT], "loose": LOOSE}[which]
        return train_on(processes, tmp_path_factory.mktemp(which), configurations)

    return of


def masks(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state["model"].items() if k.endswith("_program.mask")}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Every bit of weights, masks, optimizer, schedule and metrics."""
    assert one["folder"].name == other["folder"].name
    assert one["rows"] == other["rows"]
    for part in ("model", "optimizer", "scheduler"):
        assert_same(one[part], other[part], part)


def test_two_processes_train_the_bits_of_one(trained: Trained) -> None:
    (alone,), (both,) = trained(1, "short"), trained(2, "short")
    same(alone, both)
    assert alone["rows"][-1]["test_accuracy"] > 0.8
    assert sum(int(mask.sum()) for mask in masks(alone).values()) == 16003


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, *swept([4])])
@pytest.mark.parametrize("number", range(len(ALL)), ids=list(METHODS))
def test_every_method_trains_the_bits_of_one_process(
    trained: Trained, processes: int, number: int
) -> None:
    alone, several = trained(1, "all")[number], trained(processes, "all")[number]
    same(alone, several)
    assert masks(alone) or ALL[number][0] in ("method=l0", "method=pilot")


@pytest.mark.sweep
@pytest.mark.slow
def test_what_several_processes_trained_is_merged_and_exported(
    trained: Trained, tmp_path: Path
) -> None:
    for outcome in trained(2, "all")[:3]:
        there = load_trained(outcome["folder"])
        file = tmp_path / f"{outcome['folder'].name}.onnx"
        # Checked in onnxruntime, bit by bit of the weights, before it is there.
        report = sparsify_fx.export(there.model, str(file), there.inputs)
        assert file.exists()
        assert report.nonzeros < report.weights


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, *swept([4])])
def test_without_micro_batches_sums_round_otherwise_and_no_more(
    trained: Trained, processes: int
) -> None:
    """DistributedDataParallel alone: masks that are chosen at the start are equal, losses and weights to rounding."""
    for one, several in zip(
        trained(1, "loose"), trained(processes, "loose"), strict=True
    ):
        assert one["folder"].name == several["folder"].name
        assert_same(masks(one), masks(several))
        assert len(masks(one)) >= 4
    one, several = (trained(count, "loose")[0] for count in (1, processes))
    assert several["rows"][0]["loss"] == pytest.approx(one["rows"][0]["loss"], rel=1e-5)
    for key, value in one["model"].items():
        torch.testing.assert_close(several["model"][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, *swept([4])])
def test_synchronized_norms_normalize_as_one_process_does(
    trained: Trained, processes: int
) -> None:
    """Their losses and running statistics are those of the whole batch; local ones are visibly others."""
    one, several = trained(1, "loose")[1], trained(processes, "loose")[1]
    assert several["rows"][0]["loss"] == pytest.approx(one["rows"][0]["loss"], rel=1e-4)
    for key, value in one["model"].items():
        if "running" in key:
            torch.testing.assert_close(
                several["model"][key], value, rtol=0.01, atol=0.02
            )
    local = trained(processes, "loose")[2]
    whole = trained(1, "loose")[2]
    assert local["rows"][0]["loss"] != pytest.approx(whole["rows"][0]["loss"], rel=2e-3)
