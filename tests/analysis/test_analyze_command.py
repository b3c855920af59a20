"""`sparsify-fx analyze` on short real runs: what it picks, its numbers, its files and its errors."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import sparsify_fx
import sparsify_fx.analysis.reports  # fills the registry
from sparsify_fx.analysis.analyze import analyze
from sparsify_fx.analysis.base import ANALYSES, Options
from sparsify_fx.analysis.runs import Run
from sparsify_fx.checkpoints.run_files import read_state
from sparsify_fx.cli import app
from sparsify_fx.errors import AnalysisError
from sparsify_fx.programs.owners import programs
from sparsify_fx.train import load_config, train

pytestmark = pytest.mark.slow

QUICK = ["--samples", "200", "--iterations", "4", "--probes", "2", "--points", "3"]


def call(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["analyze", *map(str, arguments)]
    )


def call_json(*arguments: str | Path) -> Any:
    result = call(*arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs: three cycles of lrr and Sign-In with batch norm, and two seeds of a net without."""
    folder = tmp_path_factory.mktemp("runs")
    wanted = {
        "lrr": (
            "mnist5k-lenet5-bn",
            ["method=lrr", "sparsity=0.36", "save_cycles=true", "snapshots_at=[0, 1]"],
        ),
        "signin": ("mnist5k-lenet5-bn", ["method=signin", "sparsity=0.8"]),
        "plain-0": ("mnist5k-lenet5", ["method=random", "sparsity=0.5"]),
        "plain-1": ("mnist5k-lenet5", ["method=random", "sparsity=0.5", "seed=1"]),
    }
    values = {"device": "cpu", "epochs": 2, "batch_size": 500}
    return {
        name: train(
            load_config(recipe, sets, values),
            runs_dir=folder / name,
            progress=False,
            tensorboard=False,
        ).path
        for name, (recipe, sets) in wanted.items()
    }


def test_without_a_run_every_analysis_is_listed() -> None:
    assert [entry["name"] for entry in call_json()] == list(ANALYSES)
    text = call().stdout
    assert all(name in text for name in ANALYSES)


@pytest.mark.sweep
def test_one_run_gets_every_analysis_of_one_run(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    told = call_json(runs["lrr"], "--out", tmp_path / "new" / "out", *QUICK)
    assert told["runs"] == {"lrr": str(runs["lrr"])}
    of_several = {"overlap", "connectivity", "sign-difference", "stability"}
    assert set(told["skipped"]) == of_several
    assert "give 1 more" in told["skipped"]["overlap"]
    assert list(told["analyses"]) == [
        name for name in ANALYSES if name not in told["skipped"]
    ]
    for name, found in told["analyses"].items():
        (figure,) = found["figures"]
        assert Path(figure) == tmp_path / "new/out" / f"{name}.png"
        assert Path(figure).read_bytes().startswith(b"\x89PNG")
        assert found["tables"][0]["rows"]
    assert json.loads((tmp_path / "new/out/analysis.json").read_text()) == told


def test_the_numbers_are_those_of_the_run_files(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    names = ["signs", "sign-curve", "sign-cycles", "layers", "hessian"]
    only = [word for name in names for word in ("--only", name)]
    found = {
        name: one["data"]
        for name, one in call_json(runs["lrr"], "--out", tmp_path, *only, *QUICK)[
            "analyses"
        ].items()
    }
    first, warm, last = (
        read_state(runs["lrr"], epoch=0),
        read_state(runs["lrr"], epoch=1),
        read_state(runs["lrr"]),
    )
    ends = [read_state(runs["lrr"], cycle=cycle) for cycle in (0, 1, 2)]
    name = "fc1.weight"
    kept = last[f"{name}.mask"] == 1

    def flips(a: Any, b: Any) -> int:
        return int((a[name][kept] * b[name][kept] < 0).sum())

    stages = {stage: layers[name] for stage, layers in found["signs"]["lrr"].items()}
    assert {one["weights"] for one in stages.values()} == {int(kept.sum())}
    expected = [flips(first, warm), flips(warm, last), flips(first, last)]
    assert [one["flips"] for one in stages.values()] == expected
    assert expected[0] > 0
    assert [point["epoch"] for point in found["sign-curve"]["lrr"]] == [0, 1, 2, 4, 6]
    assert (
        found["sign-curve"]["lrr"][0]["from_init"]
        == found["sign-curve"]["lrr"][-1]["from_end"]
        == 0
    )
    cycles = found["sign-cycles"]["lrr"]
    assert cycles["sparsity"] == pytest.approx([0, 0.2, 0.36], abs=1e-5)
    assert sum(cycles["settled"]) == pytest.approx(1)
    masks = [key for key in last if key.endswith(".mask")]
    everything = torch.cat([last[key].flatten() for key in masks]) == 1
    signs = [
        torch.cat([state[key.removesuffix(".mask")].flatten() for key in masks])[
            everything
        ].sign()
        for state in (first, *ends)
    ]
    never = torch.stack([sign == signs[-1] for sign in signs]).all(0)
    assert cycles["settled"][0] == pytest.approx(float(never.float().mean()))
    assert found["layers"]["lrr"][name]["kept"] == int(kept.sum())
    rest = (
        sum(
            t.numel()
            for key, t in last.items()
            if key.startswith("bn") and key.endswith(("weight", "bias"))
        )
        + 10
    )
    assert found["hessian"]["lrr, θ"]["parameters"] == int(everything.sum()) + rest


def test_runs_are_compared_and_what_lacks_is_named_with_its_remedy(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    only = [
        word
        for name in ("overlap", "bn-scales", "connectivity", "sign-curve")
        for word in ("--only", name)
    ]
    given = [runs["lrr"], runs["signin"], runs["plain-0"]]
    told = call_json(
        *given, "--out", tmp_path, *only, *QUICK, "--format", "svg", "--format", "pdf"
    )["analyses"]
    assert list(told["overlap"]["data"]) == ["lrr & signin"]
    assert "another model" in told["overlap"]["left_out"]["random"]
    assert "no batch norm" in told["bn-scales"]["left_out"]["random"]
    assert "snapshots_at=[0, 1, 2]" in told["sign-curve"]["left_out"]["signin"]
    assert len(told["connectivity"]["data"]["lrr & signin"]["error"]) == 3
    assert sorted(Path(path).name for path in told["overlap"]["figures"]) == [
        "overlap.pdf",
        "overlap.svg",
    ]
    assert (tmp_path / "overlap.pdf").read_bytes().startswith(b"%PDF")
    shown = call(*given, "--out", tmp_path, "--only", "sign-curve").stdout
    assert "left out: signin: keeps 0 of its states" in shown


def test_the_ends_of_the_line_are_the_runs_themselves(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Without batch norm nothing is estimated again."""
    pair = [runs["plain-0"], runs["plain-1"]]
    told = call_json(*pair, "--only", "connectivity", "--out", tmp_path, *QUICK)
    assert list(told["runs"]) == [
        path.name for path in pair
    ]  # one method twice: by folder
    (line,) = told["analyses"]["connectivity"]["data"].values()
    accuracies = [
        json.loads((path / "result.json").read_text())["test_accuracy"] for path in pair
    ]
    assert [line["error"][0], line["error"][-1]] == pytest.approx(
        [1 - accuracy for accuracy in accuracies]
    )


def test_a_run_in_factors_is_measured_in_both_spaces_and_alike_twice(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    options = Options(samples=64, iterations=3, probes=2)
    done = [
        analyze(
            [runs["signin"]], tmp_path / name, only=["hessian"], options=options
        ).results["hessian"]
        for name in ("a", "b")
    ]
    assert done[0].findings.to_dict() == done[1].findings.to_dict()
    assert (tmp_path / "a/hessian.png").read_bytes() == (
        tmp_path / "b/hessian.png"
    ).read_bytes()
    data = done[0].findings.data
    kept = int(json.loads((runs["signin"] / "result.json").read_text())["nonzeros"])
    assert (
        data["signin, factors"]["parameters"] - data["signin, θ"]["parameters"] == kept
    )
    assert any("give more --iterations" in note for note in done[0].findings.notes)


def test_initial_weights_are_drawn_again_and_unfinished_runs_are_read(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    copied = tmp_path / "lrr"
    shutil.copytree(runs["lrr"], copied)
    whole = Run(runs["lrr"])
    for name in ("epoch-0.safetensors", "model.safetensors", "result.json"):
        (copied / name).unlink()
    cut = Run(copied)
    for state in ("initial", "final"):
        ours, theirs = getattr(cut, state), getattr(whole, state)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    plain = whole.model()
    inputs, _ = whole.test_batches()[0]
    with torch.no_grad():
        assert torch.allclose(plain(inputs), whole.session.model(inputs), atol=1e-5)
    before = os.listdir(runs["lrr"])
    assert [len(y) for _, y in whole.batches(700)] == [500, 200]
    assert sorted(os.listdir(runs["lrr"])) == sorted(before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{lrr}", "--only", "sign-cycle"], "did you mean 'sign-cycles'"),
        (["{lrr}", "--format", "pgn"], "did you mean 'png'"),
        (["{lrr}", "--only", "overlap"], "needs 2; give 1 more"),
        (["{signin}", "--only", "sign-cycles"], "save_cycles=true"),
        (["{plain-0}", "--only", "bn-scales"], "no batch norm"),
        (["{lrr}", "{plain-0}", "--only", "connectivity"], "another model"),
        (["{lrr}", "{lrr}"], "given twice"),
        (["nothing"], "does not exist"),
        (["{lrr}", "--out", "/dev/null/x"], "choose another --out"),
    ],
)
def test_an_error_is_one_line_and_comes_before_any_work(
    runs: dict[str, Path],
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*(argument.format(**runs) for argument in arguments))
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_run_without_checkpoint_and_a_missing_matplotlib(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(runs["lrr"] / "config.yaml", tmp_path)
    assert "train it first" in call(tmp_path).stderr
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AnalysisError, match=r"sparsify_fx\[plot\]"):
        analyze([runs["lrr"]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tied_weights_count_once(runs: dict[str, Path], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    sparsify_fx.apply(model, "signin", sparsity=0.5)
    shutil.copy(runs["signin"] / "config.yaml", tmp_path)
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pt")
    assert Run(tmp_path).weights == tuple(programs(model)) == ("0.weight", "1.weight")


def test_a_run_with_the_penalty_to_the_end_is_pruned_to_many_levels(
    tmp_path: Path,
) -> None:
    """spred with a constant strength, nothing pruned in training; measured on the validation images."""
    sets = [
        "method=spred",
        "sparsity=0.0",
        "validation=0.25",
        "axes.schedule={name: late, at: 1.0}",
        "axes.penalty={name: factors, strength: 0.001, reach: 1.0}",
    ]
    values = {"device": "cpu", "epochs": 2, "batch_size": 500}
    run = train(
        load_config("mnist5k-lenet5-bn", sets, values),
        runs_dir=tmp_path / "runs",
        progress=False,
        tensorboard=False,
    )
    told = call_json(run.path, "--only", "prune-curve", "--out", tmp_path / "out")
    found = told["analyses"]["prune-curve"]
    (curve,) = found["data"].values()
    assert curve["sparsities"][0] == 0
    assert curve["sparsities"][-1] == 0.99
    last = json.loads((run.path / "result.json").read_text())
    assert curve["accuracies"][0] == pytest.approx(last["validation_accuracy"])
    assert curve["accuracies"][-1] < curve["accuracies"][0]
    assert found["notes"] == ["spred: measured on the validation images"]
