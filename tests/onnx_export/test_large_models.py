"""Models beyond what one file can hold; the limit is lowered, benchmarks/large_model.py meets the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsify_fx import export
from sparsify_fx.onnx_tools import outside
from tests.onnx_export.models import mlp

pytestmark = pytest.mark.slow


@pytest.mark.sweep
@pytest.mark.parametrize("encoding", ["dense", "gap"])
def test_export_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    inputs = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    whole = export(mlp(), tmp_path / "whole.onnx", inputs, encoding=encoding)
    monkeypatch.setattr(
        outside, "MAX_BYTES", 500_000
    )  # as 2 GB would be for a real model
    report = export(mlp(), tmp_path / "m.onnx", inputs, encoding=encoding, measure=True)
    assert (tmp_path / "m.onnx.data").exists() == (encoding == "dense")
    assert report.bytes_dense == whole.bytes_dense
    assert report.bytes_file == sum(
        file.stat().st_size for file in tmp_path.glob("m.onnx*")
    )
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-6
    assert report.speed is not None
    assert report.speed.load_dense > 0


def test_passes_are_proven_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "MAX_BYTES", 5_000)
    model = nn.Sequential(nn.Linear(80, 100), nn.ReLU(), nn.Linear(100, 10))
    nn.init.zeros_(model[0].weight[:50])  # dead channels, which a pass removes
    report = export(model, tmp_path / "m.onnx", torch.randn(2, 80), encoding="dense")
    assert any(
        row.name == "dead-channels" and row.channels == 50 for row in report.passes
    )
    assert (tmp_path / "m.onnx.data").exists()


@given(
    st.lists(st.integers(0, 40_000), max_size=6), st.text(max_size=200), st.booleans()
)
def test_bytes_are_counted_as_protobuf_does(
    sizes: list[int], name: str, sparse: bool
) -> None:
    tensors = [
        numpy_helper.from_array(np.zeros(size, np.uint8), f"{name}{place}")
        for place, size in enumerate(sizes)
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])], name, [], [], tensors
    )
    if sparse:
        values = numpy_helper.from_array(np.ones(3, np.float32), "s")
        places = numpy_helper.from_array(np.arange(3), "i")
        graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [9]))
    model = helper.make_model(graph, producer_name=name)
    assert outside.count_bytes(model) == model.ByteSize()


def test_a_model_written_beside_its_weights_is_the_same(tmp_path: Path) -> None:
    large, small = np.arange(5000, dtype=np.float32), np.float32([1, 2])
    words = helper.make_tensor("words", TensorProto.STRING, [900], ["sparse"] * 900)
    tensors = [
        numpy_helper.from_array(large, "large"),
        numpy_helper.from_array(small, "small"),
        words,
    ]
    model = helper.make_model(
        helper.make_graph([], "g", [], [], tensors), producer_name="p"
    )
    before = model.SerializeToString()
    outside.write_beside(model, tmp_path / "m.onnx")
    assert model.SerializeToString() == before
    light = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    assert [bool(t.external_data) for t in light.graph.initializer] == [
        True,
        False,
        False,
    ]
    read = onnx.load(str(tmp_path / "m.onnx"))
    assert read.producer_name == "p"
    assert numpy_helper.to_array(read.graph.initializer[0]).tobytes() == large.tobytes()
    assert list(read.graph.initializer[2].string_data) == [b"sparse"] * 900
