"""A budget of milliseconds: what `apply` found is measured again in the file that is exported."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.budgets import Latency, met_by
from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.programs.owners import current_masks, programs

X = torch.randn(1, 32, 24, 24, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(2):
        norm = nn.BatchNorm2d(32)
        # As residual networks begin; the file must not lose what follows.
        nn.init.zeros_(norm.weight)
        layers += [nn.Conv2d(32, 32, 3, padding=1, bias=False), norm, nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def milliseconds_in_turn(*paths: Path) -> list[float]:
    """The median run of each file; runs take turns, so that a busy machine slows all of them alike."""
    sessions = [sparsify_fx.runtime.session(str(path), threads=1) for path in paths]
    feed = {sessions[0].get_inputs()[0].name: X.numpy()}
    taken: list[list[float]] = [[] for _ in sessions]
    for _ in range(60):
        for session, times in zip(sessions, taken, strict=True):
            session.run(None, feed)
            start = time.thread_time()
            session.run(None, feed)
            times.append(time.thread_time() - start)
    return [1e3 * statistics.median(times) for times in taken]


def pruned(milliseconds: float) -> nn.Module:
    return sparsify_fx.apply(
        net(), "random", allocation="uniform", budget=Latency(milliseconds), example_inputs=X
    )  # fmt: skip


@pytest.mark.sweep
@pytest.mark.slow
def test_milliseconds_asked_for_are_milliseconds_measured(tmp_path: Path) -> None:
    # 1. The error for a target that needs no zeros tells the dense model's time.
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SparsityError, match="nothing has to be pruned") as told:
        sparsify_fx.apply(model, "random", budget=Latency(1e4), example_inputs=X)
    assert not programs(model)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    found = re.search(r"takes ([\d.]+) ms here", str(told.value))
    assert found is not None
    target = 0.5 * float(found[1])

    # 2. Half of it, as found and as measured in the file.
    model = pruned(target)
    (met,) = met_by(model)
    assert 0.4 < met.sparsity < 0.99
    assert met.expected <= 1.02 * target
    paths = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    sparsify_fx.merge(model)
    for path, each, kind in zip(
        paths, (net(), model), ("onnx", "sparse-ort"), strict=True
    ):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        sparsify_fx.export(each, path, X, target=kind, encoding="dense", verify=False)
    # What real models come to is measured by benchmarks/latency_budget.py.
    dense, sparse = milliseconds_in_turn(*paths)
    assert sparse / dense == pytest.approx(0.5, rel=0.3)


@pytest.mark.sweep
def test_channels_within_milliseconds(tmp_path: Path) -> None:
    """Whole channels go until the target is met, and what `shrink` leaves is as fast in stock onnxruntime."""
    with pytest.raises(SparsityError, match="nothing has to be pruned") as told:
        sparsify_fx.apply(net(), "random", budget=Latency(1e4), example_inputs=X)
    found = re.search(r"takes ([\d.]+) ms here", str(told.value))
    assert found is not None
    model = sparsify_fx.apply(
        net(),
        "magnitude",
        allocation="uniform",
        schedule="at-init",
        granularity="channel",
        budget=Latency(0.5 * float(found[1])),
        example_inputs=X,
    )
    (met,) = met_by(model)
    masks = current_masks(programs(model)).values()
    assert met.kept == sum(int(mask.sum()) for mask in masks)
    sparsify_fx.shrink(sparsify_fx.merge(model), X)
    paths = tmp_path / "dense.onnx", tmp_path / "smaller.onnx"
    for path, each in zip(paths, (net(), model), strict=True):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        sparsify_fx.export(each, path, X, encoding="dense", verify=False)
    dense, smaller = milliseconds_in_turn(*paths)
    assert smaller < 0.7 * dense


@pytest.mark.sweep
def test_what_no_sparsity_reaches_is_told_with_the_least() -> None:
    with pytest.raises(
        SparsityError, match=r"cannot be reached, the least is [\d.]+ ms of"
    ):
        pruned(1e-4)


@pytest.mark.parametrize("ms", [0, -1, float("inf"), float("nan"), True, "5"])
def test_times_that_are_none(ms: object) -> None:
    with pytest.raises(SparsityError, match="positive number"):
        Latency(ms)  # type: ignore[arg-type]


def test_two_targets_and_no_inputs() -> None:
    with pytest.raises(MethodError, match="two targets"):
        sparsify_fx.apply(
            net(), "random", sparsity=0.5, budget=Latency(1), example_inputs=X
        )
    with pytest.raises(MethodError, match="needs example_inputs="):
        sparsify_fx.apply(net(), "random", budget=Latency(1))
