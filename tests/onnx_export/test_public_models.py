"""The benchmark over a folder of models: which weights it prunes, what it compares, and how it tells faults."""

from __future__ import annotations

import json
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.prune_onnx import first_difference, prune, tensors_of
from benchmarks.public_models import faults, measured, models_in, page

pytestmark = pytest.mark.slow


def model(seed: int = 0) -> onnx.ModelProto:
    """A weight as initializer, one in a Constant node, one of uint8 around its zero point."""
    rng = np.random.default_rng(seed)
    tensors = [
        numpy_helper.from_array(rng.standard_normal((40, 40)).astype(np.float32), "w")
    ]
    tensors += [
        numpy_helper.from_array(rng.integers(0, 255, (40, 40)).astype(np.uint8), "q")
    ]
    tensors += [
        numpy_helper.from_array(np.float32(0.01), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
    ]
    held = numpy_helper.from_array(rng.standard_normal((40, 40)).astype(np.float32), "")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=held),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "c"], ["b"]),
        helper.make_node("MatMul", ["b", "d"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 40]) for name in "xy"
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]
    )


def test_weights_are_pruned_wherever_they_lie() -> None:
    pruned = model()
    assert prune(pruned, 0.9) == (3 * 1440, 3 * 1600)
    arrays = {
        name: numpy_helper.to_array(tensor) for name, tensor in tensors_of(pruned)
    }
    assert [
        int((arrays[name] == zero).sum())
        for name, zero in (("w", 0), ("c", 0), ("q", 128))
    ] == [1440] * 3
    original = {
        name: numpy_helper.to_array(tensor) for name, tensor in tensors_of(model())
    }
    kept = arrays["w"] != 0
    assert np.array_equal(arrays["w"][kept], original["w"][kept])
    assert np.abs(original["w"][~kept]).max() <= np.abs(original["w"][kept]).min()


def test_differences_are_found_by_name() -> None:
    assert first_difference(model(), model()) is None
    other = model()
    other.graph.node[0].attribute[0].t.CopyFrom(
        numpy_helper.from_array(np.zeros((40, 40), np.float32), "")
    )
    assert first_difference(model(), other) == "c"
    del other.graph.initializer[0]
    assert first_difference(model(), other) is not None


def test_models_are_read_out_of_packages(tmp_path: Path) -> None:
    data = [model(seed).SerializeToString() for seed in (0, 1)]
    with zipfile.ZipFile(tmp_path / "ocr-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("ocr/models/det.onnx", data[0])
    (tmp_path / "vad.onnx").write_bytes(data[1])
    with tarfile.open(tmp_path / "vad-web-2.0.tgz", "w:gz") as archive:
        archive.add(tmp_path / "vad.onnx", "package/vad.onnx")
    (tmp_path / "vad.onnx").unlink()
    found = [(package, name) for package, name, _ in models_in(tmp_path)]
    assert found == [("ocr==1.0", "det.onnx"), ("vad-web-2.0", "vad.onnx")]


def test_broken_promises_are_told() -> None:
    good = {
        "bytes": 100,
        "bytes_packed": 20,
        "differs": None,
        "sparse_layers": 1,
        "weights": 2,
        "pack_seconds": 0.1,
    }
    good |= {
        "dense_ms": 2.0,
        "sparse_ms": 1.0,
        "dense_cpu_ms": 2.0,
        "sparse_cpu_ms": 1.0,
        "package": "p",
        "file": "f",
    }
    assert faults(good) == []
    bad = good | {
        "bytes_packed": 101,
        "differs": "w",
        "sparse_ms": 3.0,
        "sparse_cpu_ms": 3.0,
    }
    assert len(faults(bad)) == 3
    assert faults({"error": "no"}) == ["no"]
    rows = [good, bad, {"package": "q", "file": "g", "error": "no"}]
    text = page({"sparsity": 0.9, "autotune": True, "models": rows, "machine": "here"})
    assert (
        "| p | f | 100 | 20 | 0.200 | equal | 1/2 | 2.00 | 1.00 | 2.00 | 0.1 |" in text
    )
    assert "- q g: no" in text


def test_a_model_is_measured(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(model().SerializeToString())
    options = Namespace(
        sparsity=0.9,
        values="fp32",
        shape=[("x", [1, 40]), ("absent", [1])],
        axis=[],
        autotune=False,
    )
    row = measured(tmp_path / "small.onnx", Namespace(**vars(options), times=False))
    assert faults(row) == []
    assert row["bytes_packed"] < 0.3 * row["bytes"]
    assert row["pruned_entries"] == 4800
    assert json.loads(json.dumps(row)) == row
