"""The wheel holds the package, its passes, zoo and recipes, and nothing beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.sweep, pytest.mark.network]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel that is built by way of the sdist, as `python -m build` does, from what git would commit."""
    source, out = (
        tmp_path_factory.mktemp("source") / "project",
        tmp_path_factory.mktemp("dist"),
    )
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    # What is optimized nobody asks here, and it takes a minute.
    compiler = source.parent / "compiler"
    compiler.write_text('#!/bin/bash\nexec c++ "${@/-O3/-O0}"\n', encoding="utf-8")
    compiler.chmod(0o755)
    environment = os.environ | {"CC": str(compiler), "CXX": str(compiler)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_passes_zoo_and_recipes(wheel: list[str]) -> None:
    for name in (
        "sparsify_fx/py.typed",
        "sparsify_fx/passes/insert_mask.py",
        "sparsify_fx/zoo/methods/signin.py",
        "sparsify_fx/zoo/models/lenet.py",
        "sparsify_fx/zoo/data/mnist5k.py",
        "sparsify_fx/zoo/recipes/mnist5k-lenet5.yaml",
    ):
        assert name in wheel
    recipes = {
        f"sparsify_fx/zoo/recipes/{path.name}"
        for path in (ROOT / "sparsify_fx/zoo/recipes").glob("*.yaml")
    } | {
        str(path.relative_to(ROOT))
        for path in (ROOT / "sparsify_fx/zoo/recipes/reproduce").rglob("*.yaml")
    }
    assert len(recipes) >= 14
    assert recipes <= set(wheel)


def test_the_wheel_holds_the_sparse_kernels_and_their_sources(wheel: list[str]) -> None:
    assert any(
        name.startswith("sparsify_fx/runtime/_kernels.") and name.endswith(".so")
        for name in wheel
    )
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "sparsify_fx/runtime/csrc").rglob("*")
        if path.is_file()
    }
    assert any("/csrc/kernels/" in name for name in sources)
    assert sources <= set(wheel)


def test_nothing_stands_beside_the_package(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sparsify_fx"}


def test_every_module_of_the_tree_is_in_the_wheel(wheel: list[str]) -> None:
    modules = {
        str(path.relative_to(ROOT)) for path in (ROOT / "sparsify_fx").rglob("*.py")
    }
    assert modules <= set(wheel)


def test_the_two_names_at_the_top_are_relative_links() -> None:
    for name in ("passes", "zoo"):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name).readlink() == Path("sparsify_fx") / name
