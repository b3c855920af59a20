"""Comparisons: the numbers, what is told of what is missing, and every format; of results of older versions too."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sparsify_fx.cli import app
from sparsify_fx.errors import SweepError, UnknownNameError
from sparsify_fx.sweeps import spread
from sparsify_fx.sweeps.compare import compare
from sparsify_fx.sweeps.formats import check, latex, markdown
from sparsify_fx.sweeps.records import read_records

ACCURACIES = {
    ("lrr", 0.2): [0.90, 0.91, 0.95],
    ("lrr", 0.36): [0.80, 0.82, 0.84],
    ("imp", 0.2): [0.89, 0.90, 0.94],
    ("imp", 0.36): [0.70, 0.75],
}


def write_run(
    folder: Path, method: str, sparsity: float, seed: int, last: float
) -> Path:
    """A finished run, with the keys that version 0.1 wrote."""
    run = folder / f"{method}-{sparsity}-{seed}"
    run.mkdir(parents=True)
    cycles = [
        {"run": i, "epoch": i + 1, "density": d, "nonzeros": int(100 * d), "train_accuracy": 1.0,
         "test_accuracy": last - 0.01 * (1 - i)}
        for i, d in enumerate((1.0, 1 - sparsity))
    ]  # fmt: skip
    result = {
        "folder": str(run), "method": method, "requested_sparsity": sparsity, "epochs": 2, "weights": 100,
        "nonzeros": cycles[-1]["nonzeros"], "density": 1 - sparsity, "loss": 0.1, "train_accuracy": 1.0,
        "test_accuracy": last, "seconds": 1.0, "cycles": cycles,
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    config = {"method": method, "sparsity": sparsity, "seed": seed, "model": "lenet5"}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "optimizer": {"lr": 1}}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "runs", method, sparsity, seed, accuracy)
        for (method, sparsity), found in ACCURACIES.items()
        for seed, accuracy in enumerate(found)
    ]


def rows(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_means_differences_and_cycles(runs: list[Path]) -> None:
    cells, differences, cycles = map(rows, compare(read_records(runs)).tables)
    assert [(row["method"], row["sparsity"], row["n"]) for row in cells] == [
        ("lrr", 0.2, 3), ("lrr", 0.36, 3), ("imp", 0.2, 3), ("imp", 0.36, 2),
    ]  # fmt: skip
    assert cells[1]["test accuracy"] == pytest.approx(0.82)
    assert cells[1]["± 95 %"] == spread([0.80, 0.82, 0.84]).half

    # Seeds differ much, methods on one seed hardly: the interval of the difference is narrow.
    first, second = differences
    assert (first["method"], first["minus"], first["sparsity"]) == ("lrr", "imp", 0.2)
    assert first["difference"] == pytest.approx(0.01)
    assert first["± 95 %"] < 1e-12 < cells[0]["± 95 %"]
    assert second["n"] == 2  # the seed that imp lacks does not count
    assert second["difference"] == pytest.approx((0.10 + 0.07) / 2)

    assert [row["cycle"] for row in cycles[:2]] == [0, 1]
    assert [row["sparsity then"] for row in cycles[:2]] == pytest.approx([0, 0.2])
    assert cycles[0]["test accuracy"] == pytest.approx(cells[0]["test accuracy"] - 0.01)


def test_keys_that_differ_are_axes(runs: list[Path]) -> None:
    for run in runs[:3]:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["optimizer"]["lr"] = 2
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    found = read_records(runs)
    assert found.axes == ["method", "sparsity", "optimizer.lr"]
    cells, differences, _ = map(rows, compare(found).tables)
    assert cells[0]["optimizer.lr"] == 2
    # lrr and imp at 0.2 differ in their rate now, so they are not compared.
    assert [row["sparsity"] for row in differences] == [0.36]


def test_a_run_that_counts_twice_is_refused(runs: list[Path], tmp_path: Path) -> None:
    again = write_run(tmp_path / "others", "lrr", 0.2, 0, 0.5)
    with pytest.raises(SweepError, match="same values and the same seed 0"):
        read_records([*runs, again])


def test_unfinished_runs_are_told(runs: list[Path]) -> None:
    (runs[0] / "result.json").unlink()
    found = read_records(runs)
    assert found.missing == (f"{runs[0]}: not finished",)
    assert len(found.runs) == len(runs) - 1
    with pytest.raises(SweepError, match=r"no finished run to compare .*not finished"):
        read_records(runs[:1])


def test_the_command_writes_every_format(runs: list[Path], tmp_path: Path) -> None:
    formats = ("md", "csv", "tex", "svg", "png")
    options = [part for name in formats for part in ("--format", name)]
    for out in ("a", "b"):
        done = CliRunner().invoke(
            app,
            ["compare", *map(str, runs), "--out", str(tmp_path / out), *options]
            + (["--json", "-"] if out == "b" else []),
        )
        assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["cells"][0]["n"] == 3
    assert told["runs"][0]["provenance"]["commit"] is None  # as of version 0.1
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == [
        "accuracy.png", "accuracy.svg", "cells.csv", "compare.md", "compare.tex", "cycles.csv", "cycles.png",
        "cycles.svg", "differences.csv",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    with (tmp_path / "a" / "cells.csv").open() as stream:
        (first, *_) = csv.DictReader(stream)
    assert float(first["test accuracy"]) == pytest.approx(0.92)
    assert first["± 95 %"] == str(spread(ACCURACIES["lrr", 0.2]).half)


def test_texts_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a_b|c", 0.2, 0, 0.5)
    table, *_ = compare(read_records([run])).tables
    assert r"| a_b\|c | 0.2 | 1 | 0.5 | – |" in markdown(table)
    assert r"a\_b|c & 0.2 & 1 & 0.5 & -- &" in latex(table)
    assert r"$\pm$ 95 \%" in latex(table)


def test_wrong_formats_and_paths(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="docx"):
        check(["docx"])
    with pytest.raises(SweepError, match="run the sweep first"):
        read_records([tmp_path / "none.yaml"], tmp_path)
    (tmp_path / "odd.sweep.json").write_text('{"sweep": 3, "trials": [{}]}')
    with pytest.raises(SweepError, match="is no record of a sweep"):
        read_records([tmp_path / "odd.sweep.json"])
