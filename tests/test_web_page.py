"""examples/web in Chromium, served as plain files: figures, equal outputs, two widths, light and dark.

Needs Node.js and npm with an index, besides what every test marked `browser` needs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.browser import Served, chromium, served

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.network]

EXAMPLE = Path(__file__).parents[1] / "examples/web"
FIGURES = """() => [...document.querySelectorAll("#rows tr")].map((row) => ({
  ...row.dataset, ...Object.fromEntries([...row.cells].map((cell) => [cell.className, cell.innerText])),
}))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as README says that it is made, in a folder of its own, with a shorter training."""
    place = tmp_path_factory.mktemp("served") / "web"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("node_modules", "models"))  # fmt: skip
    for command in (
        ["npm", "install", "--no-audit", "--no-fund"],
        [sys.executable, str(place / "make_models.py"), "--epochs", "2"],
    ):
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="module")
def seen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """The page at a desk and on a telephone."""
    with served(folder) as address, chromium() as browser:
        return {
            scheme: browser.visit(address, width, scheme, FIGURES)
            for width, scheme in ((1280, "light"), (390, "dark"))
        }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_content_and_asks_nobody_else(
    seen: dict[str, Served], scheme: str
) -> None:
    page = seen[scheme]
    assert (page.complaints, page.elsewhere, page.overflow) == ([], [], 0)
    assert page.status == "All files give the same answer."


def test_every_file_gives_the_outputs_of_the_dense_one(seen: dict[str, Served]) -> None:
    for page in seen.values():
        rows = {row["file"]: row for row in page.found}
        assert [*rows] == ["dense", "packed", "coo", "int8"]
        assert {row["same"] for row in page.found} == {"true"}
        assert {rows[name]["difference"] for name in ("dense", "packed", "coo")} == {"0"}  # fmt: skip
        assert 0 < float(rows["int8"]["difference"]) < 0.05


def test_bytes_are_those_of_the_files(seen: dict[str, Served], folder: Path) -> None:
    rows = {row["file"]: row for row in seen["light"].found}
    sizes = {}
    for name, row in rows.items():
        file = folder / "models" / f"digits-{name}.onnx"
        sizes[name] = file.stat().st_size
        assert f"{sizes[name] / 1e3:.1f} kB" in row["wire"]
        onnx.checker.check_model(onnx.load(file))
    assert sizes["packed"] < sizes["dense"] / 8
    assert sizes["int8"] < sizes["dense"] / 15


def test_what_is_missing_is_told_in_words(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "web", symlinks=True, ignore=shutil.ignore_patterns("models"))  # fmt: skip
    with served(tmp_path / "web") as address, chromium() as browser:
        page = browser.visit(address, 390, "light", FIGURES)
    assert page.status == "There are no models yet: run python make_models.py."
