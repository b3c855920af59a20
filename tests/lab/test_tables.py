"""The tables of the laboratory in the docs are those of kept results, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import lab_tables
from sparsify_fx.lab import EXPERIMENTS, all_experiments


def test_the_pages_are_what_the_results_make() -> None:
    told = "run: python -m benchmarks.lab_tables"
    text = lab_tables.LAB_FILE.read_text(encoding="utf-8")
    assert lab_tables.filled(text) == text, told
    page = lab_tables.PAGE_FILE
    assert page.exists() == bool(lab_tables.kept()), told
    assert not page.exists() or page.read_text(encoding="utf-8") == lab_tables.page()
    all_experiments()
    assert set(lab_tables.kept()) <= set(EXPERIMENTS)


def test_a_changed_number_and_a_missing_table_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"title": "Fig. 9: x", "columns": ["r", "N"], "rows": [[1, 0.123456]]}
    (tmp_path / "some.json").write_text(json.dumps({"tables": [table]}))
    monkeypatch.setattr(lab_tables, "RESULTS", tmp_path)
    block = "a\n<!-- some: Fig. 9 -->\n| r | N |\n<!-- end -->\nb\n"
    filled = lab_tables.filled(block)
    assert "| 1 | 0.1235 |\n<!-- end -->\nb" in filled
    assert lab_tables.filled(filled) == filled
    with pytest.raises(KeyError, match=r"some has no table that begins with 'Fig\. 8'"):
        lab_tables.filled(block.replace("Fig. 9", "Fig. 8"))


def test_results_are_taken_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, docs = tmp_path / "made", tmp_path / "docs"
    made.mkdir()
    docs.mkdir()
    content = {"claim": "c", "checks": [], "figures": ["/elsewhere/one.png"]}
    (made / "one.json").write_text(json.dumps(content))
    (made / "one.png").write_bytes(b"picture")
    monkeypatch.setattr(lab_tables, "RESULTS", docs / "results")
    monkeypatch.setattr(lab_tables, "PICTURES", docs)
    lab_tables.keep(made, ["one"])
    assert (docs / "one.png").read_bytes() == b"picture"
    # No path of a machine in what is kept.
    assert "elsewhere" not in (docs / "results/one.json").read_text()
