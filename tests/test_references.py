"""docs/references.md: every key that is cited has a row, every row is cited, and no paper has another name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/references.md").read_text(encoding="utf-8")
KEY = re.compile(r"\[([A-Z]\w+ (?:19|20)\d\d)\]")
SOURCES = ("sparsify_fx", "docs", "tests", "examples", "benchmarks", "README.md")
KINDS = (".py", ".md", ".yaml", ".cpp", ".h", ".inl")


def texts() -> Iterator[tuple[str, str]]:
    """Path and text of every file that may cite, the references themselves aside."""
    for name in SOURCES:
        start = ROOT / name
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            if path.suffix in KINDS and path.name != "references.md":
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def rows() -> list[str]:
    return re.findall(r"^\| \[(\w+ \d{4})\] \|", PAGE, re.MULTILINE)


def test_every_key_has_a_row_and_every_row_is_cited() -> None:
    cited = {key: path for path, text in texts() for key in KEY.findall(text)}
    assert {k: path for k, path in cited.items() if k not in rows()} == {}
    assert sorted(set(rows()) - set(cited)) == []


def test_rows_are_sorted_within_their_section_and_none_is_twice() -> None:
    assert len(rows()) == len(set(rows()))
    for section in PAGE.split("\n## ")[1:]:
        keys = re.findall(r"^\| \[(\w+ \d{4})\] \|", section, re.MULTILINE)
        assert keys == sorted(keys, key=str.lower)


def test_a_row_has_authors_a_title_a_year_and_what_rests_on_it() -> None:
    for row in re.findall(r"^\| \[.*$", PAGE, re.MULTILINE):
        key, paper, use = (cell.strip() for cell in row.strip("|").split("|"))
        name, year = key.strip("[]").split()
        assert re.match(r"[^*]+\. \*[^*]+\*\. ", paper), row
        # The year of the key is that of the venue; an arXiv number may be older.
        assert name in paper.split("*")[0], row
        assert re.search(rf"\b{year}\b", paper), row
        assert use, row
        for shown, linked in re.findall(r"\[arXiv:([\d.]+)\]\(.*?/abs/(.*?)\)", paper):
            assert shown == linked


def test_papers_have_no_other_names() -> None:
    numbered = re.compile(r"\bpapers? 00\d", re.IGNORECASE)
    prose = re.compile(r"et al\.,? \(?(19|20)\d\d")
    for path, text in texts():
        assert not numbered.search(text), path
        assert not prose.search(text), path
