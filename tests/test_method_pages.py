"""docs/methods: a page for every registered method, with the agreed headings and the registry's values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsify_fx.cli.methods import axis_text
from sparsify_fx.recipe import AXES, METHODS, find_method

PAGES = Path(__file__).parents[1] / "docs/methods"
HEADINGS = [
    "## What it does",
    "## Formula",
    "## When it hurts",
    "## Hyperparameters",
    "## Source",
]
find_method("dense")  # fills the registry


def page_of(method: str) -> str:
    return (PAGES / f"{method}.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.split(f"{heading}\n", 1)[1].split("\n## ", 1)[0].strip()


def test_there_is_one_page_for_every_method() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*METHODS, "index"}


@pytest.mark.parametrize("method", list(METHODS))
def test_a_page_has_the_headings_and_something_under_each(method: str) -> None:
    text = page_of(method)
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == [f"# {method}", *HEADINGS]
    assert all(section(text, heading) for heading in HEADINGS)


@pytest.mark.parametrize("method", list(METHODS))
def test_the_table_gives_the_values_of_the_registry(method: str) -> None:
    axes = METHODS[method].resolved().to_dict()
    table = section(page_of(method), "## Hyperparameters").splitlines()
    assert table[:2] == ["| axis | value | the paper's value |", "|---|---|---|"]
    shown = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[2:]]
    assert [row[:2] for row in shown] == [
        [axis, f"`{axis_text(axes[axis])}`"] for axis in AXES
    ]
    assert all(len(row) == 3 and row[2] for row in shown)
