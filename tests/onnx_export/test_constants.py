"""Weights in every place that ONNX has for constants are found, packed, and put back where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.packable import hoisted
from sparsify_fx.onnx_export.storage.putting_back import put_back
from tests.onnx_export.arrays import in_one_order, run, save
from tests.onnx_export.places import PLACES, WIDTH, constant, model_of, pruned, value

PRUNED = {
    "in_branches": 5,
    "in_a_loop": 1,
    "in_a_scan": 1,
}  # weights with zeros; two in the others
FULL = {"beside_dense_ones": 1, "as_inputs": 1, "of_ir_version_3": 1}
FEED = {"x": np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)}


@pytest.mark.parametrize("encoding", ["auto", "gap", "coo", "bitmask"])
@pytest.mark.parametrize("place", PLACES)
def test_every_place(tmp_path: Path, place: str, encoding: str) -> None:
    model = PLACES[place]()
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(
        source, tmp_path / "b.onnx", encoding=encoding, functions=encoding == "gap"
    )
    packed = [row for row in report.layers if row.encoding != "dense"]
    assert len(packed) == PRUNED.get(place, 2)
    # onnxruntime adds in another order where a weight is a constant that was none before.
    assert report.max_rel_difference is not None
    assert report.max_rel_difference <= (1e-6 if place == "as_inputs" else 0.0)
    assert (
        report.bytes_file < 0.6 * report.bytes_dense
        if place not in FULL
        else report.bytes_file < report.bytes_dense
    )
    size = (PRUNED.get(place, 2) + FULL.get(place, 0)) * WIDTH * WIDTH
    for file in (source, tmp_path / "b.onnx"):
        looked = inspect_file(file)
        assert (
            (looked.weights, looked.nonzeros)
            == (report.weights, report.nonzeros)
            == (size, report.nonzeros)
        )
    onnx.checker.check_model(str(tmp_path / "b.onnx"))
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(model)
    assert run(source, FEED)[0].tobytes() == run(tmp_path / "c.onnx", FEED)[0].tobytes()


@pytest.mark.parametrize("place", PLACES)
def test_sparse_operators(tmp_path: Path, place: str) -> None:
    model = PLACES[place]()
    report = pack_onnx(
        save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", target="sparse-ort"
    )
    assert report.bytes_file < report.bytes_dense
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    back = onnx.load(str(tmp_path / "c.onnx"))
    onnx.checker.check_model(back)
    assert (
        run(tmp_path / "a.onnx", FEED)[0].tobytes()
        == run(tmp_path / "c.onnx", FEED)[0].tobytes()
    )
    assert sorted(node.op_type for node in back.graph.node) == sorted(
        node.op_type for node in model.graph.node
    )
    assert (back.producer_name, back.ir_version, list(back.metadata_props)) == (
        "other",
        model.ir_version,
        [],
    )
    assert [item.name for item in back.graph.input] == [
        item.name for item in model.graph.input
    ]


def test_packing_twice_and_what_has_no_zeros(tmp_path: Path) -> None:
    source = save(PLACES["in_branches"](), tmp_path / "a.onnx")
    pack_onnx(source, tmp_path / "b.onnx", encoding="gap")
    pack_onnx(
        tmp_path / "b.onnx",
        tmp_path / "c.onnx",
        encoding="bitmask",
        values="fp32-packed",
    )
    unpack_onnx(tmp_path / "c.onnx", tmp_path / "d.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "d.onnx"))) == in_one_order(
        onnx.load(str(source))
    )
    model = model_of(
        [
            constant(np.ones((WIDTH, WIDTH), np.float32), "w"),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
    )
    for target in ("onnx", "sparse-ort"):
        report = pack_onnx(
            save(model, tmp_path / "e.onnx"), tmp_path / "f.onnx", target=target
        )
        assert onnx.load(str(tmp_path / "f.onnx")) == model
        assert report.bytes_file <= (tmp_path / "e.onnx").stat().st_size


def test_what_gives_outputs_stays_and_is_named(tmp_path: Path) -> None:
    body = helper.make_graph(
        [constant(pruned(1), "w1")], "then", [], [value("w1", WIDTH, WIDTH)]
    )
    other = helper.make_graph(
        [constant(pruned(2), "w2")], "else", [], [value("w2", WIDTH, WIDTH)]
    )
    nodes = [
        constant(np.array(True), "yes"),
        helper.make_node("If", ["yes"], ["w"], then_branch=body, else_branch=other),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = model_of(nodes)
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert any(
        "2 tensors that are mostly zeros" in note and "its outputs" in note
        for note in report.notes
    )
    assert onnx.load(str(tmp_path / "b.onnx")) == model


def test_weights_of_other_types_are_named(tmp_path: Path) -> None:
    weight = pruned(1)
    bits = helper.make_tensor(
        "w16", onnx.TensorProto.BFLOAT16, weight.shape, weight.ravel()
    )
    nodes = [
        helper.make_node("Cast", ["w16"], ["w"], to=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    report = pack_onnx(
        save(model_of(nodes, [bits]), tmp_path / "a.onnx"), tmp_path / "b.onnx"
    )
    assert (
        report.notes[0]
        == "1 tensors that are mostly zeros stay as they are ('w16'): bfloat16 is not packed"
    )


def test_unread_initializers_stay(tmp_path: Path) -> None:
    model = PLACES["in_nodes"]()
    model.graph.initializer.append(onnx.numpy_helper.from_array(pruned(7), "unread"))
    for target in ("onnx", "sparse-ort"):
        pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", target=target)
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
        (back,) = onnx.load(str(tmp_path / "c.onnx")).graph.initializer
        assert back == model.graph.initializer[0]


@pytest.mark.parametrize("place", PLACES)
def test_hoisting_and_its_way_back(place: str) -> None:
    model = PLACES[place]()
    original = onnx.ModelProto()
    original.CopyFrom(model)
    moved = hoisted(model)
    assert onnxruntime.InferenceSession(model.SerializeToString()).run(None, FEED)[
        0
    ].shape == (3, WIDTH)
    again = Moved.from_json(moved.to_json())
    assert again.origins == moved.origins
    put_back(model, again)
    model.ir_version = original.ir_version
    assert in_one_order(model) == in_one_order(original)


@pytest.mark.parametrize(
    "story",
    [
        "[",
        "[]",
        '{"producer":1}',
        '{"producer":["a","b"],"ir_version":8,"moved":[["w","99","w"]]}',
    ],
)
def test_damaged_histories_are_errors(tmp_path: Path, story: str) -> None:
    pack_onnx(save(PLACES["in_nodes"](), tmp_path / "a.onnx"), tmp_path / "b.onnx")
    model = onnx.load(str(tmp_path / "b.onnx"))
    for entry in model.metadata_props:
        if entry.key == "sparsify_fx.origin":
            entry.value = story
    save(model, tmp_path / "b.onnx")
    with pytest.raises(ExportError, match="damaged"):
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert not (tmp_path / "c.onnx").exists()
