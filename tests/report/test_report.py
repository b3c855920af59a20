"""`sparsify-fx report` on short real runs: what the page and the notebook hold, and errors in words."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner, Result

from sparsify_fx.checkpoints.run_files import read_state
from sparsify_fx.cli import app
from sparsify_fx.errors import AnalysisError
from sparsify_fx.report import details_of, read_facts, report
from sparsify_fx.train import load_config
from sparsify_fx.train.run_folder import RunFolder


def call(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["report", *map(str, arguments)]
    )


class Parsed(html.parser.HTMLParser):
    """The tags that are open, ids, and whatever a page refers to."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in self.VOID else [tag]
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [value or ""] if name in ("href", "src", "xlink:href") else []

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_errors_are_words_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/lrr-0123456789").mkdir(parents=True)
    (tmp_path / "runs/lrr-0123456789/config.yaml").write_text("method: lrr\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.sweep.json").write_text("{")
    cases = {
        ("nothing",): "does not exist",
        ("empty",): "has no config.yaml beside it; give a run folder",
        ("runs",): "holds 1; give runs/* for all of them",
        ("signs.yaml",): "run the sweep first",
        ("bad.sweep.json",): "no record of a sweep",
        ("runs/lrr-0123456789", "--out", "report.pdf"): "a report is an .html file",
        ("runs/lrr-0123456789", "--out", "x/report.html"): "choose another --out",
        ("runs/lrr-0123456789", "runs/lrr-0123456789"): "is given twice",
    }
    before = sorted(tmp_path.rglob("*"))
    for arguments, told in cases.items():
        result = call(*arguments)
        assert result.exit_code == 2, arguments
        assert told in result.stderr
        assert result.stderr.count("\n") == 1
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AnalysisError, match=r"sparsify_fx\[plot\]"):
        report(["runs/lrr-0123456789"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_before_its_first_epoch_is_told(tmp_path: Path) -> None:
    run = tmp_path / "lrr-0123456789"
    run.mkdir()
    RunFolder(run).write_config(load_config("mnist5k-lenet5"))
    done = report([run], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "no epoch yet" in text
    assert "No epoch is finished yet." in text
    assert (
        "has no checkpoint yet; train it first" in done.details["lrr"].lacking["events"]
    )


@pytest.mark.slow
def test_a_page_of_several_runs_needs_nothing_else_and_is_made_alike_twice(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    given = [runs["signin"], runs["random"], runs["unfinished"]]
    for name in ("a", "b"):
        report(given, tmp_path / f"{name}.html", sizes=False)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert parsed.open == []
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert {link[1:] for link in parsed.links if link[0] == "#"} <= set(parsed.ids)
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert text.count("<svg") == 3
    assert "after epoch 2" in text
    # Events, layers and the configuration of each.
    assert text.count("rescale") >= 1
    assert text.count("fc1.weight") >= 3


@pytest.mark.slow
def test_the_numbers_are_those_of_the_run(runs: dict[str, Path]) -> None:
    (facts,) = read_facts([runs["signin"]]).runs
    assert facts.result is not None
    assert facts.last("test_accuracy") == facts.result.test_accuracy
    details = details_of(runs["signin"])
    assert details.lacking == {}
    assert sum(layer.kept for layer in details.layers) == facts.result.nonzeros
    first, last = (read_state(runs["signin"], epoch=epoch) for epoch in (0, 2))
    for layer in details.layers:
        kept = last[f"{layer.name}.mask"] == 1
        flipped = (first[layer.name] * last[layer.name] < 0) & kept
        assert layer.flips == int(flipped.sum()) > 0
    assert [epoch for epoch, _, _ in details.signs] == [0, 1, 2]
    assert any("rescale" in row for row in details.events)


@pytest.mark.sweep
@pytest.mark.slow
def test_sizes_speeds_and_a_notebook_that_runs(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "r.html"
    done = call(runs["signin"], "--out", out, "--notebook", "--json", "-")
    assert done.exit_code == 0, done.stderr
    (sizes,) = json.loads(done.stdout)["sizes"].values()
    assert sizes["sparse"] < 0.7 * sizes["dense"]
    assert sizes["milliseconds"] > 0
    assert sizes["said"] in out.read_text(encoding="utf-8").replace("&#39;", "'")
    notebook = nbformat.read(out.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    known: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "cell", "exec"), known)
    assert known["runs"][0].label == "signin"
    assert len(known["details"].layers) == 3


@pytest.mark.slow
def test_repeated_seeds_get_means_and_a_sweep_lists_what_is_missing(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = runs["signin"].parent
    trials = [
        {"name": name, "cell": {}, "state": "finished", "run": runs[name].name}
        for name in ("signin", "signin-1", "random")
    ]
    trials.append(
        {"name": "lrr at 0.5", "cell": {}, "state": "failed", "error": "full"}
    )
    record = folder / "digits.sweep.json"
    record.write_text(json.dumps({"sweep": "digits.yaml", "trials": trials}))
    out = tmp_path / "r.html"
    done = call("digits.yaml", "--runs", folder, "--out", out, "--brief", "--no-sizes")
    assert done.exit_code == 0, done.stderr
    assert "missing: lrr at 0.5: full" in done.stdout
    text = out.read_text(encoding="utf-8")
    assert "<li>lrr at 0.5: full</li>" in text
    assert "Test accuracy, mean over seeds" in text
    assert "<th>seed</th>" in text


@pytest.mark.slow
def test_a_page_is_made_where_the_data_are_gone(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["random"], run)
    text = (run / "config.yaml").read_text()
    gone = re.sub(r"^data: .*$", "data: npz:nowhere.npz", text, flags=re.MULTILINE)
    (run / "config.yaml").write_text(gone)
    done = report([run], tmp_path / "r.html", sizes=False)
    details = done.details["random"]
    assert sum(layer.kept for layer in details.layers) > 0
    assert "nowhere.npz" in details.lacking["events"]
    assert "No events: " in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == ["r.html", "run"]
