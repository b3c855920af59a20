"""Orders, claims and differences against numbers made by hand; settings against recipes; figures and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sparsify_fx.figures import look
from sparsify_fx.reproduce import Figure, Point, find
from sparsify_fx.reproduce.agreement import agreement
from sparsify_fx.reproduce.measures import best
from sparsify_fx.reproduce.run import Reproduced, reproduced
from sparsify_fx.reproduce.settings import compared

FIGURE = Figure.model_validate(
    {
        "key": "gadhikar2025",
        "name": "table3-x",
        "title": "Made up.",
        "shows": "Two series.",
        "kind": "sweep",
        "sweep": {"recipe": "cifar10-resnet20"},
        "panels": {"cifar10-resnet20": "CIFAR10"},
        "paper": {
            "CIFAR10": {
                "A": {0.8: 80, 0.9: 70},
                "B": {0.8: [85, 0.5], 0.9: 65},
            }
        },
        "claims": [
            {"more": "A", "than": "B", "least": 0.85},
            {"more": "B", "than": "A"},
            {"more": "A", "than": "C"},
        ],
    }
)


def points(panel: str) -> list[Point]:
    """Ours: A above B at both."""
    return [
        Point(panel, series, x, y, 0.1, 3)
        for series, x, y in (
            ("A", 0.8, 82.0),
            ("A", 0.9, 71.0),
            ("B", 0.8, 81.0),
            ("B", 0.9, 69.0),
        )
    ]


def test_full_compares_numbers_orders_and_claims() -> None:
    found = agreement(FIGURE, points("CIFAR10"), "full")
    # The paper has B above A at 0.8 and below at 0.9; ours is below at both.
    assert found.orders == (1, 2)
    assert sorted(found.differences) == [1, 2, 4, 4]
    assert [verdict.holds for verdict in found.verdicts] == [True, False, None]
    assert found.verdicts[0].measured == "+2 on average, above at 1 of 1"
    assert found.sentence("X") == (
        "At X: 1 of 2 claims hold, 1 could not be judged, 1 of 2 orders between the paper's numbers come out, our "
        "numbers lie 2.75 from the paper's on average, 4 at most."
    )


def test_a_reduction_is_compared_by_order_alone() -> None:
    found = agreement(FIGURE, points(""), "cpu")
    assert (found.orders, found.differences) == ((1, 2), ())
    assert [verdict.holds for verdict in found.verdicts] == [True, False, None]


def test_the_best_of_a_series_at_each_sparsity() -> None:
    some = [
        Point("", "", x, y) for x, y in ((0.9, 80), (0.8, 79), (0.95, 70), (0.7, 90))
    ]
    assert [(point.x, point.y) for point in best(some)] == [
        (0.7, 90),
        (0.9, 80),
        (0.95, 70),
    ]


@pytest.mark.parametrize("form", ["lines", "bars"])
def test_files_have_both_sides(form: str, tmp_path: Path) -> None:
    figure = FIGURE.model_copy(update={"form": form})
    ours = tuple(points("CIFAR10"))
    agreed = agreement(figure, ours, "full")
    done = Reproduced(figure, "full", ours, agreed, "A sentence.")
    written = done.write(tmp_path, look(("png",), 80, None))
    assert [Path(path).suffix for path in written] == [".csv", ".json", ".md", ".png"]
    text = (tmp_path / f"{done.stem}.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["whose"] for row in rows] == ["ours"] * 4 + ["paper"] * 4
    content = json.loads((tmp_path / f"{done.stem}.json").read_text())
    assert content["sentence"] == "A sentence."
    assert content["paper"][2]["half"] == 0.5
    text = (tmp_path / f"{done.stem}.md").read_text()
    assert "| CIFAR10 | B | 0.8 | 81 | 0.1 | 85 ± 0.5 |" in text
    assert (tmp_path / f"{done.stem}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("key", "name", "differ"),
    [
        ("gadhikar2024", "table1", ["ImageNet: Scheduler = step-warmup"]),
        ("gadhikar2025", "table6", []),
        ("gadhikar2025", "table7", []),
        ("jacobs2025", "table2", []),
    ],
)
def test_recipes_hold_the_papers_settings(
    key: str, name: str, differ: list[str]
) -> None:
    (figure,) = find(key, name)
    assert [v.claim for v in compared(figure) if not v.holds] == differ


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["table3", "table5", "table6"])
def test_sweeps_hold_the_papers_settings(name: str) -> None:
    (figure,) = find("jacobs2025", name)
    assert all(verdict.holds for verdict in compared(figure))


def test_a_drawing_says_that_there_is_nothing_to_run() -> None:
    done = reproduced(find("zhang2021", "fig1")[0], "cpu")
    assert done.sentence.startswith("Nothing to run: A drawing of the network")
    assert done.grids() == ()
