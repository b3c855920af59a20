"""A dense file that several tests rewrite, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

import sparsify_fx
from tests.runtime.sparse_files import X, net


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model in plain operators with all its zeros."""
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    sparsify_fx.export(net(), path, X, encoding="dense", optimize=False)
    return path
