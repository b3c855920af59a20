"""Plugins of every kind, from a loose file: found by every command that looks names up, and mistakes told in words."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsify_fx.cli import app
from sparsify_fx.errors import PluginError, TakenNameError
from sparsify_fx.plugins import load_file
from sparsify_fx.registry import Registry
from tests.fresh import COMMAND, run_fresh

ROOT = Path(__file__).parents[1]

EVERYTHING = """
from dataclasses import dataclass

import torch
from torch import nn

from sparsify_fx.analysis.base import ANALYSES, Analysis
from sparsify_fx.analysis.base import Findings as Found
from sparsify_fx.criteria import criterion
from sparsify_fx.lab import Findings
from sparsify_fx.lab.base import experiment
from sparsify_fx.learning_rate import CURVES
from sparsify_fx.recipe import METHODS, Axes, Method, axis_value
from sparsify_fx.zoo.data import DATASETS
from sparsify_fx.zoo.models import MODELS


@criterion("my-criterion")
def mine(context):
    return {name: weight.abs() for name, weight in context.weights.items()}


SETS = Axes(criterion=axis_value("criterion", "my-criterion"))
METHODS.add("my-method", Method("my-method", "Mine.", "me", sets=SETS))


@CURVES.register("my-curve")
@dataclass(frozen=True)
class Half:
    def factor(self, epoch, epochs):
        return 0.5

    def warmup_epochs(self, epochs):
        return 0.0


@MODELS.register("my-model")
def model(spec):
    pixels = spec.in_channels * spec.image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, spec.num_classes))


DATASETS.add("my-data", DATASETS["mnist5k"])



def count(runs, options):
    return Found((), {}, {"n": len(runs)})


ANALYSES.add("my-analysis", Analysis("my-analysis", "Counts runs.", "me", count))


@experiment("my-lab", paper="none", claim="Nothing is claimed.")
def lab(full, seed):
    return Findings((), (), {}, {"seed": seed})
"""

RECIPE = """
method: my-method
sparsity: 0.5
model: my-model
data: my-data
epochs: 1
batch_size: 2000
optimizer: {lr: 0.1}
learning_rate: {curve: my-curve}
device: cpu
"""


def cli(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a fresh process, which keeps what a plugin registers."""
    return run_fresh(COMMAND, *arguments, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the plugin file, and a run of its method on its model and data."""
    path = tmp_path_factory.mktemp("plugin")
    (path / "mine.py").write_text(EVERYTHING, encoding="utf-8")
    (path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    done = cli(
        path,
        "train",
        "mine.yaml",
        "--no-tensorboard",
        "--plugin",
        "mine.py",
        "--json",
        "run.json",
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_a_file_brings_method_criterion_model_data_and_curve_to_training(
    folder: Path,
) -> None:
    result = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (result["method"], result["density"]) == ("my-method", 0.5)
    run = Path(result["folder"])
    (line,) = (folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["lr"] == 0.05, "the curve's half of the base rate"
    exported = cli(folder, "export", run, "mine.onnx", "--plugin", "mine.py")
    assert exported.returncode == 0, exported.stderr
    without = cli(folder, "export", run, "mine.onnx")
    assert without.returncode == 2
    assert "unknown learning-rate curve 'my-curve'" in without.stderr
    analyzed = cli(
        folder,
        "analyze",
        run,
        "--only",
        "my-analysis",
        "--plugin",
        "mine.py",
        "--json",
        "-",
    )
    assert json.loads(analyzed.stdout)["analyses"]["my-analysis"]["data"] == {"n": 1}, (
        analyzed.stderr
    )


@pytest.mark.slow
def test_lists_and_the_laboratory_know_the_file(folder: Path) -> None:
    code = """
        from sparsify_fx.cli import app
        for command in (["methods"], ["analyze"], ["lab"], ["lab", "my-lab", "--seed", "7"]):
            app([*command, "--plugin", "mine.py", "--json", "_".join(command[:2]) + ".json"], standalone_mode=False)
    """
    done = run_fresh(textwrap.dedent(code), folder=folder)
    assert done.returncode == 0, done.stderr
    for command, name in (
        ("methods", "my-method"),
        ("analyze", "my-analysis"),
        ("lab", "my-lab"),
    ):
        listed = json.loads((folder / f"{command}.json").read_text(encoding="utf-8"))
        assert name in [entry["name"] for entry in listed]
    assert json.loads((folder / "lab_my-lab.json").read_text(encoding="utf-8"))[
        "settings"
    ] == {"seed": 7}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "absent.py",
            None,
            "the plugin absent.py does not exist; give the path of a file",
        ),
        ("notes.txt", "x = 1", "the plugin notes.txt is no Python file"),
        (
            "syntax.py",
            "def f(:\n",
            "the plugin syntax.py cannot be loaded: SyntaxError: invalid syntax",
        ),
        (
            "raises.py",
            "x = 1\ny = x / 0\n",
            "raises.py cannot be loaded: ZeroDivisionError: division by zero (line 2)",
        ),
        (
            "leaves.py",
            "raise SystemExit('enough')",
            "leaves.py cannot be loaded: SystemExit: enough",
        ),
        (
            "taken.py",
            "from sparsify_fx.recipe import METHODS\nMETHODS.add('lrr', METHODS['signin'])\n",
            "TakenNameError: method 'lrr' is already registered, by sparsify_fx.zoo.methods.lrr, and "
            "sparsify_fx_plugin_taken registers it too; choose another name (line 2)",
        ),
    ],
)
def test_mistakes_are_told_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str | None,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(PluginError) as error:
        load_file(name)
    assert told in str(error.value)
    assert f"sparsify_fx_plugin_{Path(name).stem}" not in sys.modules


def test_commands_tell_them_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["inspect", "x.onnx", "--plugin", str(tmp_path / "absent.py")]
    )
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "absent.py does not exist" in done.stderr


@pytest.mark.sweep
@pytest.mark.slow
def test_a_taken_analysis_is_told_though_analyses_come_late(tmp_path: Path) -> None:
    (tmp_path / "signs.py").write_text(
        "from sparsify_fx.analysis.base import ANALYSES, Analysis\n"
        "ANALYSES.add('signs', Analysis('signs', '', '', lambda runs, options: None))\n",
        encoding="utf-8",
    )
    done = cli(tmp_path, "analyze", "--plugin", "signs.py")
    assert done.returncode == 2
    assert "analysis 'signs' is already registered, by " in done.stderr
    assert "sparsify_fx_plugin_signs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_run_once_and_its_classes_can_be_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsify_fx.plugins._files", {})
    file = tmp_path / "random.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n",
        encoding="utf-8",
    )
    module = load_file(file)
    monkeypatch.delitem(sys.modules, "random", raising=False)
    assert load_file(str(tmp_path / "." / "random.py")) is module
    assert sys.modules[module.A.__module__] is module
    import random

    assert hasattr(random, "randint"), "the standard library's module is still there"
    other = tmp_path / "other" / "random.py"
    other.parent.mkdir()
    other.write_text("", encoding="utf-8")
    with pytest.raises(PluginError, match="has the name of another plugin file"):
        load_file(other)
    monkeypatch.delitem(sys.modules, module.__name__)


def test_a_name_is_taken_once() -> None:
    table = Registry[int]("thing")
    table.add("a", 1)
    with pytest.raises(TakenNameError, match="thing 'a' is already registered, by "):
        table.add("a", 2)
    assert table["a"] == 1
