"""The documentation builds without a warning, and README tells the truth about methods and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sparsify_fx.recipe import AXES, METHODS, find_method

ROOT = Path(__file__).parents[1]


def test_the_documentation_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Scheduler" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_readme_lists_every_method() -> None:
    find_method("dense")
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(METHODS) <= set(re.findall(r"`([a-z0-9-]+)`", table))


def test_concepts_lists_every_axis_and_recipes_page_every_recipe() -> None:
    concepts = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    assert all(f"| {axis} |" in concepts for axis in AXES)
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for path in (ROOT / "sparsify_fx/zoo/recipes").glob("*.yaml"):
        assert path.stem.removesuffix("-signin") in page
