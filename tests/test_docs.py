"""README and the pages of the house tell the truth about methods and commands; tests/test_site.py builds them."""

from __future__ import annotations

import re
from pathlib import Path

from sparsify_fx.plugins import GROUP
from sparsify_fx.recipe import AXES, METHODS, find_method

ROOT = Path(__file__).parents[1]


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


def test_every_script_that_a_page_of_the_house_names_is_there() -> None:
    for name in (
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/stability.md",
        "docs/releasing.md",
    ):
        page = (ROOT / name).read_text(encoding="utf-8")
        scripts = re.findall(r"python (\S+\.py)", page)
        scripts += [
            f"{module.replace('.', '/')}.py"
            for module in re.findall(r"python -m (benchmarks\.\w+)", page)
        ]
        assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_stability_and_contributing_agree_with_the_package() -> None:
    """The names that are public are there, and the fast tests are named."""
    stability = (ROOT / "docs/stability.md").read_text(encoding="utf-8")
    assert f"`{GROUP}`" in stability
    assert 'pytest -m "not slow"' in (ROOT / "CONTRIBUTING.md").read_text(
        encoding="utf-8"
    )
    for page in ("docs/stability.md", "SECURITY.md", "docs/releasing.md"):
        assert page in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
