"""A model that this project trains goes from the command line into the sparse runtime, and is as accurate there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.cli import app
from sparsify_fx.train.restore import load_trained
from sparsify_fx.train.session import build_session

pytestmark = pytest.mark.slow


def call(*arguments: str | Path) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", "-"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """LeNet-5 on 4,000 real digits, two epochs, 95 % zeros."""
    runs = tmp_path_factory.mktemp("runs")
    options = [
        "--epochs",
        "2",
        "--sparsity",
        "0.95",
        "--method",
        "signin",
        "--device",
        "cpu",
        "--no-tensorboard",
    ]
    result: dict[str, Any] = call(
        "train", "mnist5k-lenet5-bn", *options, "--runs", runs
    )
    return result


def accuracy(session: onnxruntime.InferenceSession, folder: Path) -> float:
    """On the 1,000 test digits, in the batches that training tests in."""
    batches = list(build_session(load_trained(folder).config).test_batches())
    name = session.get_inputs()[0].name
    hits = [
        torch.from_numpy(session.run(None, {name: x.numpy()})[0]).argmax(1) == y
        for x, y in batches
    ]
    return float(torch.cat(hits).double().mean())


def test_a_trained_model_is_as_accurate_in_the_sparse_runtime(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(trained["folder"])
    report = call(
        "export", folder, tmp_path / "one.onnx", "--target", "sparse-ort", "--measure"
    )
    assert (report["target"], report["nonzeros"]) == ("sparse-ort", trained["nonzeros"])
    assert report["speed"]["latency_ratio"] > 0
    many = sparsify_fx.export(
        load_trained(folder).model,
        tmp_path / "many.onnx",
        load_trained(folder).inputs,
        target="sparse-ort",
    )
    assert "fc1.weight" in many.sparse_layers
    assert trained["test_accuracy"] > 0.5
    for name in ("one", "many"):
        assert accuracy(
            runtime.session(tmp_path / f"{name}.onnx"), folder
        ) == pytest.approx(trained["test_accuracy"])
