"""`pack_onnx` and `unpack_onnx` on files of our own and of others, whole, damaged and too large for one file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.errors import ExportError, InputError, UnknownNameError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.files.metadata import get_metadata
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES
from tests.onnx_export.arrays import (
    in_one_order,
    matmul_with,
    model_with,
    random_tensor,
    run,
    save,
)


def foreign(density: float = 0.1) -> onnx.ModelProto:
    """A small network of another writer: convolution, linear layer, a branch with its own weight, foreign metadata."""
    weights = {
        "conv.w": random_tensor((16, 3, 3, 3), density, 0, 1),
        "fc.w": random_tensor((16 * 36, 50), density, 0, 2),
    }
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["logits", "inner"], ["z"])], "then", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 50])],
        [numpy_helper.from_array(random_tensor((50, 50), density, 0, 3), "inner")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "conv.w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "fc.w"], ["logits"]),
        helper.make_node(
            "Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))
        ),
        helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 8, 8]), ("y", ["n", 50]))
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="other",
    )
    helper.set_model_props(model, {"license": "theirs"})
    return model


def tensors(path: Path) -> dict[str, bytes]:
    """Plain initializers by name, as bytes with type and shape."""
    graph = onnx.load(str(path)).graph
    arrays = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    return {
        name: f"{a.dtype}{a.shape}".encode() + a.tobytes() for name, a in arrays.items()
    }


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("encoding", ["auto", *ENCODINGS])
def test_pack_and_unpack(
    tmp_path: Path, encoding: str, values: str, functions: bool
) -> None:
    source = save(foreign(), tmp_path / "a.onnx")
    report = pack_onnx(
        source,
        tmp_path / "b.onnx",
        encoding=encoding,
        values=values,
        functions=functions,
    )
    restored = unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert restored.bytes_file == (tmp_path / "c.onnx").stat().st_size
    assert report.bytes_file == (tmp_path / "b.onnx").stat().st_size
    before, after = onnx.load(str(source)), onnx.load(str(tmp_path / "c.onnx"))
    if VALUES[values].lossless:
        assert in_one_order(before) == in_one_order(after)
    assert (before.opset_import, list(after.functions)) == (after.opset_import, [])
    assert (after.producer_name, after.ir_version, get_metadata(after)) == (
        "other",
        8,
        {},
    )
    assert {item.key: item.value for item in after.metadata_props} == {
        "license": "theirs"
    }
    feed = {
        "x": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    }
    outputs = [run(tmp_path / f"{name}.onnx", feed)[0] for name in "abc"]
    assert outputs[1].tobytes() == outputs[2].tobytes()
    if VALUES[values].lossless:
        assert tensors(source) == tensors(tmp_path / "c.onnx")
        assert outputs[0].tobytes() == outputs[1].tobytes()
        assert (report.max_abs_difference, report.reference) == (
            0.0,
            "the original file",
        )
    else:
        assert tensors(source).keys() == tensors(tmp_path / "c.onnx").keys()
        assert report.max_rel_difference is not None
        assert 0 < report.max_rel_difference < 0.05
    looked = inspect_file(tmp_path / "b.onnx")
    assert (looked.weights, looked.nonzeros) == (report.weights, report.nonzeros)
    assert (
        looked.weights == 16 * 27 + 16 * 36 * 50 + 2 * 50 * 50
    )  # both branches have a weight of their own


def test_packing_again_from_packed_gives_the_same_as_from_dense(tmp_path: Path) -> None:
    source = save(foreign(), tmp_path / "a.onnx")
    pack_onnx(source, tmp_path / "gap.onnx", encoding="gap", functions=True)
    pack_onnx(tmp_path / "gap.onnx", tmp_path / "twice.onnx", encoding="coo")
    pack_onnx(source, tmp_path / "once.onnx", encoding="coo")
    unpack_onnx(tmp_path / "twice.onnx", tmp_path / "back.onnx")
    assert tensors(tmp_path / "back.onnx") == tensors(source)
    assert (tmp_path / "twice.onnx").stat().st_size == (
        tmp_path / "once.onnx"
    ).stat().st_size
    pack_onnx(source, source, encoding="gap")  # in place
    assert inspect_file(source).layers[0].encoding == "gap"


def test_special_values_and_other_types_keep_their_bits(tmp_path: Path) -> None:
    arrays = {
        "special": random_tensor((40, 90), 0.2, 0.3, 5),
        "half": random_tensor((40, 90), 0.2, 0.3, 6, np.float16),
        "double": random_tensor((40, 90), 0.2, 0.3, 7, np.float64),
        "integers": np.arange(12).reshape(3, 4) * (np.arange(4) > 1),
        "scalar": np.float32(0.0) * np.ones(()),
        "empty": np.zeros((0, 3), np.float32),
    }
    source = save(
        model_with({name: np.asarray(array) for name, array in arrays.items()}),
        tmp_path / "a.onnx",
    )
    for encoding in ENCODINGS:
        report = pack_onnx(
            source, tmp_path / "b.onnx", encoding=encoding, normalize_zeros=False
        )
        assert {row.name: row.encoding for row in report.layers}["double"] == encoding
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
        assert tensors(tmp_path / "c.onnx") == tensors(source)
    assert "-0.0" in report.notes[0]
    clean = pack_onnx(source, tmp_path / "b.onnx", encoding="gap", normalize_zeros=True)
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    array = numpy_helper.to_array(
        next(
            t
            for t in onnx.load(str(tmp_path / "c.onnx")).graph.initializer
            if t.name == "special"
        )
    )
    assert not (np.signbit(array) & (array == 0)).any()
    assert clean.notes == ()


def test_old_models_and_initializers_that_are_inputs(tmp_path: Path) -> None:
    """IR version 3 lists initializers as inputs; later such a weight may be replaced at run time, as the note says."""
    weight = random_tensor((90, 60), 0.1, 0, 1)
    for ir_version, opset, encoding, expected in (
        (3, 8, "auto", "coo"),
        (3, 11, "gap", "gap"),
        (7, 12, "gap", "gap"),
    ):
        model = matmul_with(weight, opset, ir_version)
        model.graph.input.append(
            helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape)
        )
        report = pack_onnx(
            save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding=encoding
        )
        assert {row.name: row.encoding for row in report.layers} == {"w": expected}
        feed = {"x": np.ones((2, 90), np.float32)}
        assert (
            run(tmp_path / "a.onnx", feed)[0].tobytes()
            == run(tmp_path / "b.onnx", feed)[0].tobytes()
        )
        assert any("callers could replace ('w')" in note for note in report.notes) == (
            ir_version > 3
        )
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
        assert onnx.load(str(tmp_path / "c.onnx")) == model
    with pytest.raises(
        ExportError,
        match="gap with values fp32 needs opset 11, but the model has 8; use encoding coo",
    ):
        pack_onnx(
            save(matmul_with(weight, 8, 4), tmp_path / "a.onnx"),
            tmp_path / "d.onnx",
            encoding="gap",
        )
    assert not (tmp_path / "d.onnx").exists()


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1])
def test_damaged_files(tmp_path: Path, cut: int) -> None:
    whole = save(foreign(), tmp_path / "whole.onnx").read_bytes()
    source = tmp_path / "cut.onnx"
    source.write_bytes(whole[:cut])
    for work in (pack_onnx, unpack_onnx):
        with pytest.raises(ExportError, match=r"cut\.onnx"):
            work(source, tmp_path / "b.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "cut.onnx",
        "whole.onnx",
    ]


def test_damaged_codes_are_found_and_leave_nothing(tmp_path: Path) -> None:
    pack_onnx(save(foreign(), tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding="gap")
    model = onnx.load(str(tmp_path / "b.onnx"))
    codes = next(
        tensor for tensor in model.graph.initializer if tensor.name.endswith(".gaps")
    )
    codes.raw_data = b"\xff" * len(codes.raw_data)  # far beyond the end of the weight
    save(model, tmp_path / "b.onnx")
    for work in (
        lambda: unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx"),
        lambda: inspect_file(tmp_path / "b.onnx"),
    ):
        with pytest.raises(ExportError, match="onnxruntime cannot rebuild this weight"):
            work()
    codes.raw_data = codes.raw_data[:-1]
    save(model, tmp_path / "b.onnx")
    with pytest.raises(ExportError, match=r"damaged|cannot rebuild"):
        unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert not (tmp_path / "c.onnx").exists()


def test_targets_and_names_that_do_not_work(tmp_path: Path) -> None:
    source = save(foreign(), tmp_path / "a.onnx")
    with pytest.raises(
        UnknownNameError, match="unknown encoding 'gaps'; did you mean 'gap'"
    ):
        pack_onnx(source, tmp_path / "b.onnx", encoding="gaps")
    with pytest.raises(UnknownNameError, match="unknown values 'int4'"):
        pack_onnx(source, tmp_path / "b.onnx", values="int4")
    with pytest.raises(ExportError, match="does not exist; create it first"):
        pack_onnx(source, tmp_path / "none" / "b.onnx")
    with pytest.raises(ExportError, match="does not exist"):
        pack_onnx(tmp_path / "none.onnx", tmp_path / "b.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def with_signs(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(array == 0, np.float32(-0.0), array)


def test_signs_of_zeros_that_matter_are_kept(tmp_path: Path) -> None:
    """1 / -0.0 is -Inf: the file is packed all the same, with its signs."""
    model = matmul_with(with_signs(random_tensor((90, 60), 0.1, 0, 1)))
    nodes = [
        helper.make_node("Reciprocal", ["w"], ["r"]),
        helper.make_node("ReduceMin", ["r"], ["least"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "least"], ["y"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx")
    assert "-0.0 was kept: with 0.0 in its place the outputs differ" in report.notes
    assert tensors(tmp_path / "b.onnx") == tensors(source)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"axes": 5}, "axes: expected a dict by name, got int"),
        ({"inputs": [1]}, "inputs: expected a dict by name, got list"),
        ({"input_shapes": {"x": 5}}, "shape of input 'x': expected a list of lengths, got int"),
    ],
)  # fmt: skip
def test_sizes_of_the_wrong_type_are_no_damage(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    source = save(matmul_with(random_tensor((9, 6), 0.1, 0, 1)), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=said):
        pack_onnx(source, tmp_path / "b.onnx", **options)


def test_functions_beside_a_node_that_has_the_name_of_a_weight(tmp_path: Path) -> None:
    model = matmul_with(random_tensor((90, 60), 0.1, 0, 1))
    model.graph.node[0].name = "w"
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx", encoding="gap", functions=True)
    assert report.max_abs_difference == 0.0
    packed = onnx.load(tmp_path / "b.onnx").graph.node
    assert [node.name for node in packed if node.op_type == "MatMul"] == ["w"]
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert (tmp_path / "c.onnx").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("options", [{"target": "tvm"}, {"encoding": "dense"}])
def test_signs_of_zeros_stay_where_nothing_is_gained(
    tmp_path: Path, options: dict[str, str]
) -> None:
    source = save(matmul_with(with_signs(random_tensor((90, 60), 0.1, 0, 1))), tmp_path / "a.onnx")  # fmt: skip
    report = pack_onnx(source, tmp_path / "b.onnx", **options)
    assert "-0.0 was kept: nothing in this file becomes smaller" in report.notes
    assert (tmp_path / "b.onnx").read_bytes() == source.read_bytes()
    pack_onnx(source, tmp_path / "c.onnx", normalize_zeros=True, **options)
    assert (tmp_path / "c.onnx").read_bytes() != source.read_bytes()


def test_signs_of_zeros_in_initializers_that_are_inputs(tmp_path: Path) -> None:
    """onnxruntime rounds otherwise once these are constants; that is no reason to keep signs."""
    weight, scale = (
        with_signs(random_tensor((16, 8, 3, 3), 0.1, 0, 2)),
        np.linspace(0.3, 0.7, 16, dtype=np.float32),
    )
    arrays = {
        "w": weight,
        "scale": scale,
        "shift": scale,
        "mean": scale,
        "variance": scale,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node(
            "BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["y"]
        ),
    ]
    ends = [
        helper.make_tensor_value_info(name, 1, ["n", side, "h", "w"])
        for name, side in (("x", 8), ("y", 16))
    ]
    inputs = [helper.make_tensor_value_info("w", 1, weight.shape)]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [ends[0], *inputs], ends[1:], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx", input_shapes={"x": (1, 8, 9, 9)})
    assert report.max_abs_difference  # so that this test tells something
    assert "are -0.0 and were stored as 0.0" in report.notes[0]
    assert report.bytes_file < 0.5 * report.bytes_dense


@pytest.mark.parametrize("values", ["fp32", "fp32-packed"])
def test_files_that_would_grow_stay_as_they_are(tmp_path: Path, values: str) -> None:
    """What a packed file says of itself takes some 200 bytes."""
    for seed in range(12):
        shape = tuple(np.random.default_rng(seed).integers(10, 30, 2))
        source = save(
            matmul_with(random_tensor(shape, 0.7, 0, seed)), tmp_path / "a.onnx"
        )
        report = pack_onnx(source, tmp_path / "b.onnx", values=values, verify=False)
        assert report.bytes_file <= source.stat().st_size
        if report.layers[0].encoding == "dense":
            assert (tmp_path / "b.onnx").read_bytes() == source.read_bytes()


def test_packed_values_that_are_used_nowhere_take_nothing(tmp_path: Path) -> None:
    source = save(matmul_with(random_tensor((44, 89), 0.03, 0, 1)), tmp_path / "a.onnx")
    sizes = [
        pack_onnx(source, tmp_path / "b.onnx", values=values).bytes_file
        for values in ("fp32", "fp32-packed")
    ]
    assert sizes[0] == sizes[1]


def test_weights_that_stay_in_their_places_count(tmp_path: Path) -> None:
    """Those that give an output, and sparse ones in nodes."""
    array = random_tensor((60, 60), 0.1, 0, 1)
    places = np.flatnonzero(array)
    values = (
        numpy_helper.from_array(array.ravel()[places]),
        numpy_helper.from_array(places),
    )
    sparse = helper.make_sparse_tensor(*values, [60, 60])
    model = matmul_with(array)
    model.graph.node.insert(
        0, helper.make_node("Constant", [], ["v"], sparse_value=sparse)
    )
    model.graph.node.insert(
        1, helper.make_node("Constant", [], ["u"], value=numpy_helper.from_array(array))
    )
    model.graph.node[-1].output[0] = "a"
    model.graph.node.extend(
        [helper.make_node("MatMul", [a, w], [y]) for a, w, y in ("avb", "buy")]
    )
    model.graph.output.append(helper.make_tensor_value_info("u", 1, [60, 60]))
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx")
    back = unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    told = [(each.weights, each.nonzeros) for each in (report, back)]
    told += [
        (each.weights, each.nonzeros)
        for each in (inspect_file(tmp_path / f"{name}.onnx") for name in "abc")
    ]
    assert told == [(3 * 3600, 3 * len(places))] * 5


@pytest.mark.parametrize(
    "read",
    [
        inspect_file,
        lambda file: pack_onnx(file, "b.onnx"),
        lambda f: unpack_onnx(f, "b.onnx"),
    ],
)
def test_sources_that_are_no_paths(read: Callable[[Any], Any]) -> None:
    for source in (foreign(), io.BytesIO(), b"a.onnx"):
        with pytest.raises(
            ExportError,
            match=f"cannot read from {type(source).__name__}: give the path of a file",
        ):
            read(source)


def test_long_names(tmp_path: Path) -> None:
    source = save(foreign(), tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="its name is too long"):
        pack_onnx(source, tmp_path / f"{'b' * 245}.onnx")


def test_foreign_operators_are_packed_but_not_compared(tmp_path: Path) -> None:
    model = matmul_with(random_tensor((90, 60), 0.1, 0, 1))
    model.graph.node.append(helper.make_node("Magic", ["y"], ["z"], domain="other"))
    model.graph.output.append(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    )
    model.opset_import.append(helper.make_opsetid("other", 1))
    report = pack_onnx(
        save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding="gap"
    )
    assert report.max_abs_difference is None
    assert "outputs were not compared" in report.notes[0]
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert tensors(tmp_path / "c.onnx") == tensors(tmp_path / "a.onnx")


def test_commands(tmp_path: Path) -> None:
    source = save(foreign(), tmp_path / "a.onnx")
    run_ = CliRunner().invoke
    done = run_(
        app,
        [
            "pack",
            str(source),
            str(tmp_path / "b.onnx"),
            "--values",
            "fp32-packed",
            "--measure",
            "--json",
            str(tmp_path / "r.json"),
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["bytes_file"] == (tmp_path / "b.onnx").stat().st_size
    assert report["speed"]["latency_ratio"] > 0
    assert report["speed"]["load"] > 0
    assert {row["name"]: row["macs"] for row in report["layers"]} == {
        "conv.w": 16 * 27 * 36,
        "fc.w": 576 * 50,
        **dict.fromkeys(
            ("inner.1", "inner.2"), None
        ),  # how often a branch runs is not known
    }
    assert (
        run_(
            app, ["unpack", str(tmp_path / "b.onnx"), str(tmp_path / "c.onnx")]
        ).exit_code
        == 0
    )
    assert tensors(tmp_path / "c.onnx") == tensors(source)
    failed = run_(app, ["pack", str(tmp_path / "none.onnx"), str(tmp_path / "d.onnx")])
    assert failed.exit_code == 2
    assert sparsify_fx.pack_onnx is pack_onnx
