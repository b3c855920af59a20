"""`sparsify-fx lab`: the list, a run's files, and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sparsify_fx.lab.base as base
from sparsify_fx.cli import app
from sparsify_fx.errors import LabError, UnknownNameError
from sparsify_fx.lab import (
    EXPERIMENTS,
    Check,
    Experiment,
    Findings,
    Grid,
    all_experiments,
    run_experiment,
)
from sparsify_fx.registry import Registry


def call(*arguments: str | Path) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["lab", *map(str, arguments)])


def square(full: bool, seed: int) -> Findings:
    """A parabola through the figure, the table and the data."""
    values = [float(seed + (10 if full else 1) * step) ** 2 for step in range(4)]
    return Findings(
        grids=(
            Grid(
                "squares",
                ("step", "square"),
                tuple((step, value) for step, value in enumerate(values)),
            ),
        ),
        checks=(
            Check("squares grow", f"{values[-1]:g}", values[-1] > values[0]),
            Check("they fall", "no", False),
        ),
        figures={"square": lambda figure: figure.subplots().plot(values)},
        settings={"steps": 4},
        notes=("a note",),
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    all_experiments()
    table = Registry[Experiment]("experiment")
    for name in EXPERIMENTS:
        table.add(name, EXPERIMENTS[name])
    table.add("square", Experiment("square", "none", "squares grow", square))
    monkeypatch.setattr("sparsify_fx.lab.run.EXPERIMENTS", table)
    assert base.EXPERIMENTS is EXPERIMENTS


def test_without_a_name_it_lists_every_experiment() -> None:
    listed = call("--json", "-")
    names = [entry["name"] for entry in json.loads(listed.stdout)]
    assert names == list(EXPERIMENTS)
    text = call().stdout
    assert all(name in text for name in names)
    assert all(
        entry.paper.startswith("[") and entry.claim.endswith(".")
        for entry in all_experiments()
    )


@pytest.mark.usefixtures("registered")
def test_a_run_writes_figure_and_json_and_prints_tables(tmp_path: Path) -> None:
    result = call(
        "square", "--out", tmp_path / "new" / "lab", "--seed", "3", "--json", "-"
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["tables"][0]["rows"][-1] == [3, 36.0]
    assert [check["holds"] for check in told["checks"]] == [True, False]
    assert told["seed"] == 3
    assert json.loads((tmp_path / "new/lab/square.json").read_text()) == told
    assert (tmp_path / "new/lab/square.png").read_bytes().startswith(b"\x89PNG")
    shown = call("square", "--out", tmp_path, "--full").stdout
    assert "900" in shown
    assert "a note" in shown
    assert "NO" in shown


def test_errors_come_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = call("neuron-singin", "--out", tmp_path / "out")
    assert wrong.exit_code == 2
    assert "did you mean 'neuron-signin'" in wrong.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError):
        run_experiment("nothing", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="choose another --out"):
        run_experiment("neuron-signin", tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LabError, match=r"sparsify_fx\[plot\]"):
        run_experiment("neuron-signin", tmp_path / "none")
    assert not (tmp_path / "none").exists()
