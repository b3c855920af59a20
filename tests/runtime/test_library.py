"""The library is found wherever the package was imported from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsify_fx
from sparsify_fx.runtime import library


@pytest.mark.slow
def test_a_working_copy_finds_the_installed_library(tmp_path: Path) -> None:
    """Even when a build has left its egg-info in the copy, which then comes first on the path."""
    copy, site = tmp_path / "copy", tmp_path / "site"
    shutil.copytree(
        Path(sparsify_fx.__file__).parent,
        copy / "sparsify_fx",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    described = "Metadata-Version: 2.1\nName: sparsify_fx\nVersion: 0.1.0\n"
    (copy / "sparsify_fx.egg-info").mkdir()
    (copy / "sparsify_fx.egg-info/PKG-INFO").write_text(described)
    (site / "sparsify_fx-0.1.0.dist-info").mkdir(parents=True)
    (site / "sparsify_fx-0.1.0.dist-info/METADATA").write_text(described)
    installed = site / "sparsify_fx/runtime" / Path(library()).name
    installed.parent.mkdir(parents=True)
    shutil.copy2(library(), installed)
    program = "import sparsify_fx.runtime as r; print(r.__file__, r.library(), r.instruction_set())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{site}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, found, _ = done.stdout.split()
    assert Path(imported).is_relative_to(copy)
    assert Path(found) == installed
