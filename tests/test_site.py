"""The site: every link of the built pages leads somewhere, nothing comes from another host, and Chromium is content."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import chromium

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# What a reader meets first, and the widest pages: long tables, formulas, long names.
PAGES = (
    "index",
    "quickstart",
    "which_method",
    "trainers",
    "methods/signin",
    "runtime",
    "coverage",
    "api",
)


class Page(html.parser.HTMLParser):
    """Names that others may link to, links, and what is loaded."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.formulas = 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found["id"]} if "id" in found else set()
        self.formulas += tag == "math"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(found["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in found:
            self.loaded.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as CONTRIBUTING says that it is built; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.sweep
def test_the_api_is_there_under_the_names_that_users_write(site: Path) -> None:
    names = Page(site / "api.html").names
    for name in ("apply", "merge", "Scheduler", "export", "pack_onnx"):
        assert f"sparsify_fx.{name}" in names


@pytest.mark.sweep
def test_no_link_is_broken_and_nothing_comes_from_another_host(site: Path) -> None:
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert len(pages) > 60
    broken = []
    for file, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                broken += [f"{file.name} loads {link}"] if link in page.loaded else []
                continue
            target = (
                (file.parent / unquote(parts.path)).resolve() if parts.path else file
            )
            # Names within pages of code are made by lines, and linked by the highlighter itself.
            known = pages[target].names if target in pages else None
            if not target.is_file() or (
                parts.fragment
                and known is not None
                and unquote(parts.fragment) not in known
            ):
                broken.append(f"{file.name}: {link}")
    assert broken == []


@pytest.mark.sweep
def test_formulas_are_drawn_by_the_browser_and_figures_are_filled_in(
    site: Path,
) -> None:
    for page in (site / "methods").glob("*.html"):
        if page.stem != "index":
            assert Page(page).formulas > 0, page
    text = (site / "which_method.html").read_text(encoding="utf-8")
    assert "{{" not in text
    assert "±" in text


@pytest.mark.browser
def test_pages_are_read_on_a_desk_and_on_a_telephone(site: Path) -> None:
    with chromium() as browser:
        for name in PAGES:
            for width, scheme in ((1280, "light"), (390, "dark")):
                seen = browser.open(site / f"{name}.html", width, scheme)
                found = (name, width, seen.complaints, seen.asked, seen.overflow)
                assert found == (name, width, [], [], 0)
