"""The command line: every command, its JSON, and errors as one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner, Result

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.cli.methods import axis_text
from sparsify_fx.onnx_export import inspect_file
from sparsify_fx.recipe import METHODS
from sparsify_fx.train.restore import load_trained
from tests.fresh import COMMAND, run_fresh

TINY = [
    "--epochs",
    "2",
    "--set",
    "batch_size=500",
    "--device",
    "cpu",
    "--no-tensorboard",
]


def call(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(
        app, [str(argument) for argument in arguments]
    )


def call_json(*arguments: str | Path) -> Any:
    result = call(*arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # nothing else is on standard output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `train --json` says about a short lrr run."""
    runs = tmp_path_factory.mktemp("runs")
    result: dict[str, Any] = call_json(
        "train",
        "mnist5k-lenet5",
        *TINY,
        "--sparsity",
        "0.9",
        "--method",
        "signin",
        "--runs",
        runs,
    )
    return result


def test_version_and_help() -> None:
    assert call("--version").stdout.strip() == f"sparsify-fx {sparsify_fx.__version__}"
    assert "RECIPE" in call("train", "--help").stdout
    for command in (
        "train",
        "sweep",
        "compare",
        "report",
        "demo",
        "export",
        "pack",
        "unpack",
        "inspect",
        "methods",
        "analyze",
        "lab",
        "coverage",
        "bench",
    ):
        text = call(command, "--help").stdout
        assert "--json" in text
        assert "Example" in text


@pytest.mark.slow
def test_train_shows_a_line_per_epoch_and_is_not_repeated(
    trained: dict[str, Any],
) -> None:
    runs = Path(trained["folder"]).parent
    arguments = [
        "train",
        "mnist5k-lenet5",
        *TINY,
        "--sparsity",
        "0.9",
        "--method",
        "signin",
        "--runs",
        runs,
    ]
    again = call(*arguments)
    assert again.exit_code == 0
    assert "epoch" in again.stdout
    assert call_json(*arguments) == trained
    forced = call(*arguments, "--force")
    assert forced.stdout.count("density 0.1000") == 2
    assert "rescale" in forced.stdout  # the timeline
    assert call(*arguments, "--quiet").stdout == ""


@pytest.mark.slow
def test_export_writes_a_checked_file_that_onnxruntime_runs(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(trained["folder"])
    for source in (folder, folder / "checkpoint.pt", folder / "model.safetensors"):
        out = tmp_path / f"{source.name}.onnx"
        report = call_json("export", source, out)
        assert report["nonzeros"] == trained["nonzeros"]
        assert report["bytes_file"] < report["bytes_dense"]
        assert "dead-channels" in [row["name"] for row in report["passes"]]
    assert (
        call_json("export", folder, tmp_path / "plain.onnx", "--no-optimize")["passes"]
        == []
    )
    trained_model = load_trained(folder)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(
        None, {session.get_inputs()[0].name: trained_model.inputs.numpy()}
    )
    with torch.no_grad():
        expected = trained_model.model(trained_model.inputs)
    assert np.abs(outputs - expected.numpy()).max() < 1e-4
    inspected = call_json("inspect", out)
    assert inspected["nonzeros"] == trained["nonzeros"]
    assert (
        "conv1.weight"
        in call(
            "inspect", folder / "checkpoint.pt", "--json", tmp_path / "i.json"
        ).stdout
    )
    assert call_json("inspect", folder)["nonzeros"] == trained["nonzeros"]
    assert (
        json.loads((tmp_path / "i.json").read_text())["nonzeros"] == trained["nonzeros"]
    )


def test_methods_lists_all_and_shows_sums() -> None:
    listed = call_json("methods")
    assert [entry["name"] for entry in listed] == list(METHODS)
    assert "prune/retrain" in " ".join(call("methods").stdout.lower().split())
    card = call_json("methods", "signin+lrr")
    assert card["name"] == "lrr+signin"
    assert card["axes"]["parameterization"] == {"name": "product", "beta": 1.0}
    assert "cycles(keep=0.8)" in call("methods", "lrr+signin").stdout
    assert axis_text({"weights": "warmup", "batchnorm": None}) == "weights: warmup"


@pytest.mark.sweep
def test_brackets_are_shown_as_they_are_with_where_keys_lead(tmp_path: Path) -> None:
    shown = call("methods", "lrr").stdout
    assert "[Gadhikar 2024]" in shown
    assert "docs/references.md" in shown
    plugin = tmp_path / "lower.py"
    plugin.write_text(
        "from dataclasses import replace\n"
        "from sparsify_fx.recipe import METHODS, find_method\n"
        "lower = replace(find_method('lrr'), name='lower', source='[red 2024]')\n"
        "METHODS.add('lower', lower)\n"
    )
    done = run_fresh(COMMAND, "methods", "lower", "--plugin", plugin)
    assert "[red 2024]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "mnist5k-lenet"], "did you mean 'mnist5k-lenet5'"),
        (["train", "mnist5k-lenet5", "--method", "sigin"], "did you mean 'signin'"),
        (["train", "mnist5k-lenet5", "--set", "optimizer.lrr=1"], "did you mean 'lr'"),
        (["train", "mnist5k-lenet5", "--sparsity", "1.5"], "sparsity"),
        (["train", "mnist5k-lenet5", "--data", "npz:none.npz"], "none.npz"),
        (
            ["train", "mnist5k-lenet5", "--json", "no/such/folder.json"],
            "folder that does not exist",
        ),
        (["export", "nothing", "out.onnx"], "does not exist"),
        (["inspect", "nothing.onnx"], "does not exist"),
        (["methods", "lr"], "did you mean 'lrr'"),
        (["demo", "--out", "/dev/null/x", "--epochs", "1"], "--out"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_changes_nothing(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_console_script_reports_errors_without_a_traceback(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "sparsify-fx"
    start = (
        [str(script)]
        if script.exists()
        else [sys.executable, "-c", "from sparsify_fx.cli import main; main()"]
    )
    told = subprocess.run(
        [*start, "train", "nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("error: unknown recipe 'nothing'")
    assert told.stderr.count("\n") == 1
    usage = run_fresh(COMMAND, "train", folder=tmp_path)
    assert usage.returncode == 2
    assert "RECIPE" in usage.stderr


@pytest.mark.slow
def test_the_package_runs_as_a_module() -> None:
    code = "import runpy; runpy.run_module('sparsify_fx', run_name='__main__', alter_sys=True)"
    done = run_fresh(code, "--version")
    assert done.stdout == f"sparsify-fx {sparsify_fx.__version__}\n"


@pytest.mark.slow
def test_demo_compares_four_two_of_them_on_one_mask_and_onnxruntime_agrees(
    tmp_path: Path,
) -> None:
    demo = call_json("demo", "--out", tmp_path / "demo", "--epochs", "2")
    rows = {row["method"]: row for row in demo["rows"]}
    assert list(rows) == ["dense", "random", "signin", "lrr+signin"]
    assert demo["masks_equal"] is True
    assert (
        rows["random"]["nonzeros"]
        == rows["signin"]["nonzeros"]
        == rows["lrr+signin"]["nonzeros"]
        == round(0.02 * rows["dense"]["weights"])
    )
    for name, row in rows.items():
        assert row["same_predictions"] == demo["digits"] == 1000
        assert (tmp_path / "demo" / f"{name}.onnx").stat().st_size == row[
            "bytes_sparse"
        ]
        assert 0 < row["flips"] < row["nonzeros"]
        assert len(row["curve"]) == (14 if name == "lrr+signin" else 2)
        assert row["accuracy"] == row["curve"][-1]
    assert rows["signin"]["bytes_sparse"] < 0.1 * rows["signin"]["bytes_dense"]
    assert (tmp_path / "demo" / "curves.png").read_bytes().startswith(b"\x89PNG")
    speed = demo["sparse_runtime"]
    assert (speed["method"], speed["same_predictions"]) == ("lrr+signin", 1000)
    assert 0 < speed["faster"] < 100
    layers = f"{len(speed['sparse_layers'])} of 3 layers skip their zeros"
    assert layers in speed["said"]
    assert speed["milliseconds"] > 0
    assert inspect_file(speed["onnx"]).nonzeros <= rows["lrr+signin"]["nonzeros"]
