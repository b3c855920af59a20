"""ONNX files with weights in a file beside them, read and written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_tools import outside
from tests.onnx_export.arrays import matmul_with, model_with, random_tensor, run, save


def external(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location=f"{path.name}.weights",
        size_threshold=100,
    )
    return path


@pytest.mark.parametrize("encoding", ["dense", "gap"])
def test_external_data_goes_in_and_comes_out_beyond_the_limit(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"w{i}": random_tensor((100, 300), 0.4, 0, i) for i in range(4)}
    source = external(tmp_path / "a.onnx", model_with(arrays))
    small = pack_onnx(source, tmp_path / "whole.onnx", encoding=encoding)
    assert not (tmp_path / "whole.onnx.data").exists()
    monkeypatch.setattr(
        outside, "MAX_BYTES", 150_000
    )  # as 2 GB would be for a real model
    report = pack_onnx(source, tmp_path / "b.onnx", encoding=encoding)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"a.onnx", "a.onnx.weights", "whole.onnx", "b.onnx", "b.onnx.data"}
    assert report.bytes_file == sum(
        (tmp_path / f"b.onnx{end}").stat().st_size for end in ("", ".data")
    )
    expected = {name: array.tobytes() for name, array in arrays.items()}
    (tmp_path / "moved").mkdir()
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "moved" / "c.onnx")
    assert (tmp_path / "moved" / "c.onnx.data").exists()
    found = {
        tensor.name: numpy_helper.to_array(tensor).tobytes()
        for tensor in onnx.load(str(tmp_path / "moved" / "c.onnx")).graph.initializer
    }
    assert found == expected
    for name in ("whole.onnx", "b.onnx", "moved/c.onnx"):
        for array, got in zip(arrays.values(), run(tmp_path / name, {}), strict=True):
            assert got.tobytes() == array.tobytes()
    assert {
        row.name: row.nonzeros
        for row in inspect_file(tmp_path / "b.onnx").layers
        if row.name in arrays
    } == {row.name: row.nonzeros for row in small.layers}


def test_coo_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = external(
        tmp_path / "a.onnx", matmul_with(random_tensor((100, 300), 0.4, 0, 1))
    )
    monkeypatch.setattr(outside, "MAX_BYTES", 40_000)
    with pytest.raises(
        ExportError, match=r"exceed 2 GB, and coo has no place for .*; use encoding gap"
    ):
        pack_onnx(source, tmp_path / "b.onnx", encoding="coo")
    assert {file.name for file in tmp_path.iterdir()} == {"a.onnx", "a.onnx.weights"}


def test_external_data_that_is_missing_short_or_elsewhere(tmp_path: Path) -> None:
    source = external(
        tmp_path / "a.onnx", matmul_with(random_tensor((100, 300), 0.4, 0, 1))
    )
    data = tmp_path / "a.onnx.weights"
    whole = data.read_bytes()
    data.write_bytes(whole[:-4])
    with pytest.raises(
        ExportError, match=r"a\.onnx: w: its external data cannot be read: .* shorter"
    ):
        pack_onnx(source, tmp_path / "b.onnx")
    data.unlink()
    with pytest.raises(ExportError, match="missing"):
        pack_onnx(source, tmp_path / "b.onnx")
    model = onnx.load(str(source), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../a.onnx.weights"
    (tmp_path.parent / "a.onnx.weights").write_bytes(whole)
    with pytest.raises(ExportError, match="outside the model's folder"):
        pack_onnx(save(model, source), tmp_path / "b.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx"]
