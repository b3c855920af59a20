"""Packed files that other programs changed are unpacked as far as they can be, and told apart where they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import compose, helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from tests.onnx_export.arrays import run, save
from tests.onnx_export.places import PLACES, WIDTH, constant, model_of, pruned

FEED = {"x": np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)}


def packed(tmp_path: Path, model: onnx.ModelProto) -> Path:
    pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding="gap")
    return tmp_path / "b.onnx"


@pytest.mark.parametrize("place", PLACES)
def test_what_onnxruntime_optimized(tmp_path: Path, place: str) -> None:
    """It rebuilds the weights, inlines functions and branches, and writes the branches of If in another order."""
    file = packed(tmp_path, PLACES[place]())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    unpack_onnx(tmp_path / "optimized.onnx", tmp_path / "c.onnx")
    assert np.allclose(
        run(tmp_path / "c.onnx", FEED)[0], run(file, FEED)[0], rtol=1e-4, atol=1e-3
    )
    report = pack_onnx(tmp_path / "optimized.onnx", tmp_path / "d.onnx")
    assert report.bytes_file < 0.7 * report.bytes_dense


def test_an_if_that_is_gone(tmp_path: Path) -> None:
    """Its weights stay where they are: in the main graph."""
    model = onnx.load(str(packed(tmp_path, PLACES["in_branches"]())))
    for node in model.graph.node:
        if node.op_type == "If":
            del node.attribute[:]
            node.op_type, node.input[:] = "Identity", ["x"]
    unpack_onnx(save(model, tmp_path / "b.onnx"), tmp_path / "c.onnx")
    back = onnx.load(str(tmp_path / "c.onnx"))
    onnx.checker.check_model(back)
    assert (
        sum(tensor.dims[:] == [WIDTH, WIDTH] for tensor in back.graph.initializer) == 5
    )
    assert np.array_equal(run(tmp_path / "c.onnx", FEED)[0], 2 * FEED["x"])


def test_nodes_that_are_gone_in_front_of_a_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x" if at == 0 else f"i{at - 1}"], [f"i{at}"])
        for at in range(4)
    ]
    nodes += [constant(pruned(1), "w"), helper.make_node("MatMul", ["i3", "w"], ["y"])]
    model = onnx.load(str(packed(tmp_path, model_of(nodes))))
    kept = [node for node in model.graph.node if node.op_type != "Identity"]
    kept[-1].input[0] = "x"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    unpack_onnx(save(model, tmp_path / "b.onnx"), tmp_path / "c.onnx")
    back = onnx.load(str(tmp_path / "c.onnx"))
    onnx.checker.check_model(back)
    assert [node.op_type for node in back.graph.node] == ["Constant", "MatMul"]


def test_weights_of_other_names_and_without_metadata(tmp_path: Path) -> None:
    file = packed(tmp_path, PLACES["in_nodes"]())
    model = onnx.load(str(file))
    save(compose.add_prefix(model, "part/"), tmp_path / "c.onnx")
    with pytest.raises(
        ExportError,
        match=r"are missing: \['w', 'v'\]; another program may have renamed them",
    ):
        unpack_onnx(tmp_path / "c.onnx", tmp_path / "d.onnx")
    del model.metadata_props[:]
    report = unpack_onnx(save(model, tmp_path / "c.onnx"), tmp_path / "d.onnx")
    assert report.notes[0].startswith(
        "nothing in this file is packed, or another program has removed the metadata"
    )
    assert unpack_onnx(file, tmp_path / "d.onnx").notes == ()
    assert inspect_file(tmp_path / "d.onnx").sparsity > 0.85


def test_branches_before_ir_version_4(tmp_path: Path) -> None:
    """onnx's checker wants initializers of branches to be inputs then; the packed form passes it, the original not."""
    model = PLACES["in_branches"]()
    model.ir_version, model.opset_import[0].version = 3, 11
    unpack_onnx(packed(tmp_path, model), tmp_path / "c.onnx")
    assert onnx.load(str(tmp_path / "c.onnx")).ir_version == 3


def test_inspect_tells_of_packed_weights_that_were_renamed(tmp_path: Path) -> None:
    model = onnx.load(str(packed(tmp_path, PLACES["in_nodes"]())))
    save(compose.add_prefix(model, "net/"), tmp_path / "c.onnx")
    (note,) = inspect_file(tmp_path / "c.onnx").notes
    assert note.startswith(
        "2 packed weights that the file's metadata name are not in it under these names ('v', 'w')"
    )
    assert inspect_file(tmp_path / "b.onnx").notes == ()
