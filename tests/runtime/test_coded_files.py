"""`target="sparse-ort"` with values of less than 32 bits: files, reports, and libraries that are too old for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.errors import RuntimeLibraryError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from tests.runtime.sparse_files import X, net, run, run_plain, weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["fp16", "int8", "fp32-packed"])
def test_files_are_smaller_run_are_inspected_and_unpacked(
    dense: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "coded.onnx"
    report = pack_onnx(dense, file, target="sparse-ort", values=kind)
    plain = pack_onnx(dense, tmp_path / "fp32.onnx", target="sparse-ort")
    assert report.bytes_file < plain.bytes_file
    assert report.sparse_layers == plain.sparse_layers
    assert runtime.format_of(onnx.load(file)) == 2
    rows = {row.name: row for row in inspect_file(file).layers}
    for row in report.layers:
        if row.encoding == "sparse-ort":
            shown = rows[row.name]
            assert row.values == shown.values == kind
            assert row.bytes_stored == shown.bytes_stored
            assert row.nonzeros == shown.nonzeros
    unpack_onnx(file, tmp_path / "back.onnx")
    np.testing.assert_allclose(run(file), run_plain(tmp_path / "back.onnx"), atol=1e-5)
    if kind == "fp32-packed":
        assert weights(tmp_path / "back.onnx") == weights(dense)
    # Packed anew, in standard operators, the weights are the same.
    pack_onnx(file, tmp_path / "gap.onnx", encoding="gap")
    unpack_onnx(tmp_path / "gap.onnx", tmp_path / "again.onnx")
    assert weights(tmp_path / "again.onnx") == weights(tmp_path / "back.onnx")


def test_export_takes_int8_and_says_by_how_much_outputs_differ(tmp_path: Path) -> None:
    report = sparsify_fx.export(
        net(), tmp_path / "net.onnx", X, target="sparse-ort", values="int8"
    )
    assert report.values == "int8"
    assert report.max_rel_difference is not None
    assert 1e-5 < report.max_rel_difference < 0.05


def test_a_library_of_an_older_version_is_refused_before_anything_is_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that knows nothing of formats, as all did before there was a second."""
    pack_onnx(dense, tmp_path / "int8.onnx", target="sparse-ort", values="int8")
    old = tmp_path / "old"
    old.mkdir()
    command = ["gcc", "-shared", "-x", "c", "/dev/null", "-o", f"{old}/_kernels.so"]
    subprocess.run(command, check=True)
    monkeypatch.setattr(
        sys.modules["sparsify_fx.living.native"], "_folders", lambda: iter([old])
    )
    assert runtime.newest_format() == 1
    words = "format 2, and the library .* older version, which reads up to 1"
    with pytest.raises(RuntimeLibraryError, match=words):
        pack_onnx(dense, old / "a.onnx", target="sparse-ort", values="int8")
    with pytest.raises(RuntimeLibraryError, match=words):
        sparsify_fx.export(net(), old / "a.onnx", X, target="sparse-ort", values="int8")
    with pytest.raises(RuntimeLibraryError, match=words):
        inspect_file(tmp_path / "int8.onnx", measure=True)
    assert not (old / "a.onnx").exists()
    # What needs no library still works.
    unpack_onnx(tmp_path / "int8.onnx", tmp_path / "back.onnx")
