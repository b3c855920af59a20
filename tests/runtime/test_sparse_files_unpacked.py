"""Files with sparse operators give every bit of their weights back, wherever these lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.files.metadata import get_metadata
from sparsify_fx.onnx_tools import outside
from tests.runtime.sparse_files import run, run_plain, weights


def test_pack_and_unpack_give_every_bit_and_every_output_back(
    dense: Path, tmp_path: Path
) -> None:
    report = pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    assert {"left.weight", "right.weight"} <= set(report.sparse_layers)
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-5
    unpack_onnx(tmp_path / "sparse.onnx", tmp_path / "back.onnx")
    assert weights(dense) == weights(tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    again = onnx.load(str(tmp_path / "back.onnx"))
    assert not any(node.domain for node in again.graph.node)
    assert {entry.domain for entry in again.opset_import} == {""}
    assert get_metadata(again).keys() == {"sparsity"}
    plain = pack_onnx(
        tmp_path / "sparse.onnx", tmp_path / "coo.onnx", encoding="coo"
    )  # from one form to another
    assert (plain.target, plain.sparse_layers, plain.nonzeros) == (
        "onnx",
        (),
        report.nonzeros,
    )
    pack_onnx(tmp_path / "coo.onnx", tmp_path / "sparse2.onnx", target="sparse-ort")
    np.testing.assert_array_equal(
        run(tmp_path / "sparse2.onnx"), run(tmp_path / "sparse.onnx")
    )


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", ["fp32", "fp32-packed"])
def test_layers_that_stay_dense_are_encoded(
    dense: Path, tmp_path: Path, values: str, functions: bool
) -> None:
    path = tmp_path / "mixed.onnx"
    report = pack_onnx(
        dense,
        path,
        target="sparse-ort",
        encoding="gap",
        values=values,
        functions=functions,
    )
    stored = {row.name: row.encoding for row in report.layers}
    assert (stored["mix.weight"], stored["left.weight"], stored["head.weight"]) == (
        "gap",
        "sparse-ort",
        "dense",
    )
    assert set(inspect_file(path).sparse_layers) == set(report.sparse_layers)
    unpack_onnx(path, tmp_path / "back.onnx")
    assert weights(dense) == weights(tmp_path / "back.onnx")
    np.testing.assert_allclose(run(path), run_plain(dense), atol=1e-5)


def one_layer(weight: np.ndarray) -> onnx.ModelProto:
    """x @ weight, for 64 rows."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, weight.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, weight.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    graph = helper.make_graph(
        [node], "one", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def test_negative_zeros_are_zeros_where_outputs_stay_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    weight = np.random.default_rng(0).standard_normal((400, 400), np.float32)
    weight *= np.random.default_rng(1).random(weight.shape) < 0.05
    onnx.save(one_layer(weight), tmp_path / "a.onnx")
    kept = pack_onnx(
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
        target="sparse-ort",
        normalize_zeros=False,
    )
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert weights(tmp_path / "c.onnx")["w"] == weight.tobytes()
    assert "weights are -0.0" in kept.notes[0]
    small = pack_onnx(tmp_path / "a.onnx", tmp_path / "d.onnx", target="sparse-ort")
    assert small.bytes_file < 0.15 * kept.bytes_file
    assert "zeros are -0.0 and were stored as 0.0" in small.notes[0]
    x = torch.randn(64, 400)
    np.testing.assert_array_equal(
        run(tmp_path / "b.onnx", x), run(tmp_path / "d.onnx", x)
    )


def test_damaged_gap_codes_are_errors(tmp_path: Path) -> None:
    weight = np.zeros((400, 400), np.float32)
    weight[::7, ::11] = 1.0
    onnx.save(one_layer(weight), tmp_path / "a.onnx")
    pack_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", target="sparse-ort")
    model = onnx.load(str(tmp_path / "b.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "w.gaps":
            gaps = numpy_helper.to_array(tensor).copy()
            gaps[:] = 255
            tensor.CopyFrom(numpy_helper.from_array(gaps, tensor.name))
    onnx.save(model, tmp_path / "b.onnx")
    for work in (inspect_file, lambda file: unpack_onnx(file, tmp_path / "c.onnx")):
        with pytest.raises(ExportError, match="w: its gap codes are damaged"):
            work(tmp_path / "b.onnx")
    with pytest.raises(Exception, match="beyond the end of weight_shape"):
        run(tmp_path / "b.onnx")
    assert not (tmp_path / "c.onnx").exists()


def test_external_data_goes_in_and_comes_out(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.onnx"
    model = onnx.load(str(dense))
    onnx.save(
        model,
        source,
        save_as_external_data=True,
        location="source.bin",
        size_threshold=0,
    )
    report = pack_onnx(source, tmp_path / "sparse.onnx", target="sparse-ort")
    assert {"left.weight", "right.weight"} <= set(report.sparse_layers)
    monkeypatch.setattr(outside, "MAX_BYTES", 40_000)
    pack_onnx(source, tmp_path / "large.onnx", target="sparse-ort")
    assert (tmp_path / "large.onnx.data").stat().st_size > 10_000
    np.testing.assert_array_equal(
        run(tmp_path / "large.onnx"), run(tmp_path / "sparse.onnx")
    )
    assert set(inspect_file(tmp_path / "large.onnx").sparse_layers) == set(
        report.sparse_layers
    )
    unpack_onnx(tmp_path / "large.onnx", tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
