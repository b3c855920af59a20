"""Results that are kept: what is written is read again and shown; what failed is told and not kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import reproduce_kept, reproduce_results
from sparsify_fx.reproduce import Point, find
from sparsify_fx.reproduce.agreement import agreement
from sparsify_fx.reproduce.run import Reproduced


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept yet."""
    for module in (reproduce_kept, reproduce_results):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")


def test_our_numbers_stand_beside_the_papers(tmp_path: Path) -> None:
    (figure,) = find("gadhikar2025", "table4")
    ours = (
        Point("", "Random", 0.5, 81.234567891, 0.12, 3),
        Point("", "Random + Sign-In", 0.5, 80.0, None, 1),
    )
    agreed = agreement(figure, ours, "tiny")
    done = Reproduced(figure, "tiny", ours, agreed, agreed.sentence("scale tiny (x)"))
    content = reproduce_kept.content_of(done, 12.34)
    text = reproduce_kept.text_of(content)
    # Tuples come back as lists.
    assert json.loads(text) == json.loads(json.dumps(content))
    assert content["ours"][0] == ["", "Random", 0.5, 81.2346, 0.12, 3]
    path = reproduce_kept.kept_path(figure, "tiny")
    path.parent.mkdir()
    path.write_text(text)

    page = reproduce_results.results_page()
    assert "1 in all, 0 minutes" in page
    assert "### gadhikar2025 table4" in page
    assert (
        "| Random | 0.5: 81.23 ± 0.12 | *DeiT Small on ImageNet* 0.5: 69.31 ± 0.7 |"
        in page
    )
    assert (
        "`tiny` (12 s, [raw](reproduce/gadhikar2025-table4-tiny.json)): 0 of 1 claims hold"
        in page
    )
    assert "| no |" in page
    shown = reproduce_results.sentence(content)
    assert shown.startswith("0 of 1 claims hold, 0 of 1 orders")


def test_scales_are_those_that_a_figure_has() -> None:
    scales = {
        ("gadhikar2024", "fig3"): "tiny",
        ("zhang2021", "fig2"): "cpu",
        ("jacobs2025", "table2"): "full",
    }
    for (key, name), scale in scales.items():
        (figure,) = find(key, name)
        assert reproduce_kept.kept_scale(figure, "tiny") == scale


def test_what_cannot_be_made_is_told_and_not_kept(tmp_path: Path) -> None:
    (figure,) = find("gadhikar2025", "table4")
    told = reproduce_kept.keep(figure, "tiny", tmp_path, ["data=npz:nowhere.npz"])
    assert told.startswith(
        "FAILED: gadhikar2025 table4 is trained on data that are not"
    )
    assert "nowhere.npz" in told
    assert reproduce_results.kept(figure) == {}


def test_settings_are_kept_with_what_differs(tmp_path: Path) -> None:
    (figure,) = find("gadhikar2024", "table1")
    told = reproduce_kept.keep(figure, "tiny", tmp_path, [])
    assert "39 of 40 values" in told
    page = reproduce_results.results_page()
    assert "| ImageNet: Scheduler = step-warmup |" in page
    assert page.count("| no |") == 1
    assert "| yes |" not in page
