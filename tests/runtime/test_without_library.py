"""Files with sparse operators where the library is not registered, or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sparsify_fx
from sparsify_fx.errors import ExportError, RuntimeLibraryError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.checks.verify import Runtime
from tests.runtime.sparse_files import X, net, run_plain


def test_without_the_library_onnxruntime_refuses_and_we_say_what_to_do(
    dense: Path, tmp_path: Path
) -> None:
    pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    with pytest.raises(
        Exception, match=r"sparsify_fx:\w+.* is not a registered"
    ):  # onnxruntime's own words
        run_plain(tmp_path / "sparse.onnx")
    with pytest.raises(
        ExportError,
        match=r"register sparsify_fx.runtime.library\(\).*sparsify-fx unpack",
    ):
        Runtime(tmp_path / "sparse.onnx")


def test_an_installation_without_the_library(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes no such file, but inspects and unpacks those of others."""
    source = tmp_path / "sparse.onnx"
    pack_onnx(dense, source, target="sparse-ort")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(
        sys.modules["sparsify_fx.living.native"], "_folders", lambda: iter([empty])
    )
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        sparsify_fx.export(net(), empty / "a.onnx", X, target="sparse-ort")
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        pack_onnx(dense, empty / "a.onnx", target="sparse-ort")
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        inspect_file(source, measure=True)
    assert not list(empty.iterdir())
    assert {"left.weight", "right.weight"} <= set(inspect_file(source).sparse_layers)
    unpack_onnx(source, tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    report = pack_onnx(source, tmp_path / "gap.onnx")
    assert report.max_abs_difference is None
    assert "outputs were not compared" in report.notes[0]
