"""The table of all methods: kept cells stay, former ones go when they are measured, the pages are made of the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods_page, methods_table
from benchmarks.methods_results import put
from benchmarks.methods_scans import ANY, SCANS, Scan, chosen

SETTING = {"recipe": "r", "budget": 2, "seeds": 1, "keep": 0.5, "batch_size": 256}
SETTING["validation"] = 0.2


def command(out: Path, *words: str) -> dict[str, Any]:
    """The command with the smallest budget, and its JSON."""
    small = ("--budget", "2", "--seeds", "1", "--sparsities", "0.9", "--out", str(out))
    methods_table.main([*small, *words])
    return dict(json.loads(out.read_text(encoding="utf-8")))


def outcome(accuracy: float, sparsity: float = 0.9) -> dict[str, Any]:
    return {"accuracy": accuracy, "sparsity": sparsity, "commit": "abc"}


def results(**parts: Any) -> dict[str, Any]:
    return {"setting": SETTING, "cells": {}, "scans": {}, "former": {}, **parts}


def test_what_is_there_is_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    first = command(out, "--rows", "random")
    assert 0.1 < first["cells"]["random"]["0.9"]["0"]["accuracy"] < 1
    assert abs(first["cells"]["random"]["0.9"]["0"]["sparsity"] - 0.9) < 1e-4
    # A number that no training gives shows whether one took place.
    first["cells"]["random"]["0.9"]["0"]["accuracy"] = 2.0
    first["former"] = {"random": {"0.9": {"shown": "1.0", "source": "before"}}}
    out.write_text(json.dumps(first), encoding="utf-8")
    capsys.readouterr()
    assert command(out, "--rows", "random")["cells"] == first["cells"]
    assert "1 of 1" not in capsys.readouterr().out
    again = command(out, "--rows", "random", "--again")
    assert again["cells"]["random"]["0.9"]["0"]["accuracy"] < 1
    assert again["former"] == {}
    with pytest.raises(SystemExit, match=r"'budget': 2.*'budget': 3.*another --out"):
        command(out, "--rows", "random", "--budget", "3")


def test_a_scanned_cell_is_trained_anew_when_another_strength_is_chosen() -> None:
    found = results(scans={"l1": {"0.9": {"0.001": {"validation": 0.5}}}})
    (job,) = methods_table.cell_jobs(["l1, scanned"], ["0.9"], found)
    assert job.values["axes"]["penalty"] == {"name": "l1", "strength": 1e-3, "reach": 1}
    put(found, job.place, {**outcome(0.9), "strength": 1e-3})
    assert methods_table.is_there(found, job)
    found["scans"]["l1"]["0.9"]["0.003"] = {"validation": 0.6}
    (job,) = methods_table.cell_jobs(["l1, scanned"], ["0.9"], found)
    assert job.strength == 3e-3
    assert not methods_table.is_there(found, job)


def test_scans_keep_training_digits_aside_and_cells_do_not() -> None:
    scans = list(methods_table.scan_jobs(["l1, scanned", "l1"], ["0.9"], 20))
    assert [job.values["validation"] for job in scans] == [0.2] * 3
    cells = list(methods_table.cell_jobs(["l1", "dense"], ["0.8", "0.9"], results()))
    assert all("validation" not in job.values for job in cells)
    assert [job.place[2] for job in cells] == ["0.8", "0.9", ANY]


def test_the_best_strength_or_the_nearest_sparsity_is_chosen() -> None:
    strengths = (1.0, 2.0, 3.0)
    found = {
        "1": {"validation": 0.9, "sparsity": 0.5},
        "2": {"validation": 0.95, "sparsity": 0.88},
        "3": {"validation": 0.95, "sparsity": 0.99},
    }
    assert chosen(Scan("l1", strengths), found, 0.9) == 2.0
    free = Scan("thresholds", strengths, targeted=False)
    assert [chosen(free, found, s) for s in (0.6, 0.9, 0.98)] == [1.0, 2.0, 3.0]
    failed = {"l1": {"0.9": {"0.0003": {"error": "diverged"}}}}
    kept = results(scans=failed)
    page = methods_page.strengths_page(kept)
    assert "| 0.0003 | failed |\n| 0.001 | not run |" in page
    with pytest.raises(SystemExit, match=r"l1, scanned at 0\.9: every strength failed"):
        list(methods_table.cell_jobs(["l1, scanned"], ["0.9"], kept))


def test_measured_cells_take_the_place_of_former_ones() -> None:
    shown = {"shown": "90.0", "source": "before"}
    former = {"l1": {"0.8": shown, "0.9": shown}, "dense": {"0.8": shown, "0.9": shown}}
    found = results(former=former)
    put(found, ("cells", "l1", "0.8", "0"), outcome(0.9))
    put(found, ("cells", "dense", ANY, "0"), outcome(0.9, 0.0))
    assert found["former"] == {"l1": {"0.9": shown}}


def test_cells_former_ones_and_failures_on_the_page() -> None:
    former = {"shown": "94.6 ± 0.7", "source": "measured before abc"}
    found = results(
        cells={
            "dense": {ANY: {"0": outcome(0.95, 0.0)}},
            "str-constant": {ANY: {"0": outcome(0.9, 0.5)}},
            "l1": {"0.9": {"0": outcome(0.91)}, "0.8": {"0": {"error": "too little"}}},
        },
        former={"acdc+signin": {"0.8": former}, "imp": {"0.8": former}},
    )
    page = methods_page.table_page(found)
    assert "| dense | 95.0 | 95.0 |\n| imp | 94.6 ± 0.7 † | not run |" in page
    assert "| l1 | failed | 91.0 |" in page
    assert "`l1` at 0.8: too little" in page
    assert "| str-constant | 90.0 (s = 0.500) | 90.0 (s = 0.500) |\n| acdc+" in page
    assert "\n†: measured before abc, seeds not kept.\n" in page
    other = {"shown": "90.0", "source": "measured before xyz, with other defaults"}
    found["former"]["l0"] = {"0.8": other}
    page = methods_page.table_page(found)
    assert "† in `l0`: measured before xyz, with other defaults.\n" in page
    assert "† elsewhere: measured before abc" in page


def test_the_pages_are_what_the_results_make() -> None:
    found = json.loads(methods_table.OUT.read_text(encoding="utf-8"))
    folder = methods_table.OUT.parent
    for name, page in (
        ("methods_mnist5k.md", methods_page.table_page(found)),
        ("strengths.md", methods_page.strengths_page(found)),
    ):
        assert (folder / name).read_text(encoding="utf-8") == page, methods_page.COMMAND
    assert set(found["scans"]) <= set(SCANS)
    rows = {*found["cells"], *found["former"]}
    assert rows <= set(methods_table.all_rows())
