"""Quantized weights: their zeros are their zero points. onnxruntime's own quantizers make the files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from sparsify_fx import runtime
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.storage.quantized import zero_points
from tests.onnx_export.arrays import in_one_order, random_tensor, run, save
from tests.onnx_export.places import WIDTH, constant, model_of, value

CHANNELS = 112


def network(density: float = 0.1) -> onnx.ModelProto:
    """Two convolutions and a linear layer, pruned."""
    weights = {
        "w1": random_tensor((CHANNELS, 8, 3, 3), density, 0, 1),
        "w2": random_tensor((CHANNELS, CHANNELS, 3, 3), density, 0, 2),
        "w3": random_tensor((CHANNELS * 16, 40), density, 0, 3),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w3"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 8, 4, 4]), ("y", ["n", 40]))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Four random batches."""

    def __init__(self) -> None:
        self.left = iter(
            np.random.default_rng(0).standard_normal((4, 2, 8, 4, 4)).astype(np.float32)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self.left, None)
        return None if batch is None else {"x": batch}


def quantized(tmp_path: Path, how: str) -> Path:
    logging.getLogger().setLevel(logging.ERROR)
    source, target = save(network(), tmp_path / "float.onnx"), tmp_path / "a.onnx"
    kind = QuantType.QUInt8 if how.endswith("uint8") else QuantType.QInt8
    if how.startswith("dynamic"):
        quantize_dynamic(source, target, weight_type=kind, per_channel="channel" in how)
    else:
        form = QuantFormat.QDQ if how.startswith("qdq") else QuantFormat.QOperator
        quantize_static(
            source, target, Samples(),
            quant_format=form, weight_type=kind, activation_type=kind, per_channel="channel" in how,
        )  # fmt: skip
    return target


WAYS = [f"{form}{channel}-{kind}" for form in ("qdq", "operator", "dynamic") for channel in ("", "-channel")
        for kind in ("int8", "uint8")]  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_files_of_onnxruntimes_quantizers(tmp_path: Path, how: str) -> None:
    source = quantized(tmp_path, how)
    report = pack_onnx(source, tmp_path / "b.onnx")
    looked, packed = inspect_file(source), inspect_file(tmp_path / "b.onnx")
    assert (
        looked.weights
        == report.weights
        == packed.weights
        == sum(int(np.prod(tensor.dims)) for tensor in network().graph.initializer)
    )
    assert looked.nonzeros == report.nonzeros == packed.nonzeros
    assert report.sparsity > 0.88
    assert report.max_abs_difference == 0.0
    large = [row for row in report.layers if row.prunable and row.encoding != "dense"]
    assert {row.encoding for row in large} <= {"gap", "bitmask"}
    stored, bound = (
        sum(row.bytes_stored for row in large),
        sum(row.bytes_bound for row in large),
    )
    assert stored < 1.25 * bound
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(
        onnx.load(str(source))
    )


def test_sparse_operators_leave_integer_operators_alone_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    """Those between QuantizeLinear and DequantizeLinear they do not: tests/runtime/test_quantized_layers.py."""
    source = quantized(tmp_path, "operator-int8")
    report = pack_onnx(source, tmp_path / "b.onnx", target="sparse-ort")
    assert report.sparse_layers == ()
    assert "3 are quantized and stay as they were" in report.verdict
    assert any(
        "3 quantized weights" in note and "compute in integers" in note
        for note in report.notes
    )
    assert report.max_abs_difference == 0.0
    assert report.ratio > 3
    assert not runtime.sparse_weights(onnx.load(tmp_path / "b.onnx"))


@pytest.mark.parametrize("encoding", ["gap", "bitmask", "coo", "auto"])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("points", ["none", "one", "channels"])
def test_zero_points(tmp_path: Path, kind: str, points: str, encoding: str) -> None:
    """Zero points that are not 0, one or one for each channel along an axis."""
    rng, shape = np.random.default_rng(0), (64, 96)
    low, high = (-128, 128) if kind == "int8" else (0, 256)
    point = {
        "none": 0,
        "one": rng.integers(low, high),
        "channels": rng.integers(low, high, shape[1]),
    }[points]
    codes = np.where(
        rng.random(shape) < 0.1, rng.integers(low, high, shape), point
    ).astype(kind)
    tensors = [numpy_helper.from_array(codes, "w")]
    if points != "none":
        tensors.append(numpy_helper.from_array(np.asarray(point, kind), "z"))
    scales = np.full(shape[1] if points == "channels" else (), 0.1, np.float32)
    tensors.append(numpy_helper.from_array(np.asarray(scales), "s"))
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            ["w", "s", *(["z"] if points != "none" else [])],
            ["f"],
            axis=1,
        ),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, 1, ["n", size])
        for name, size in zip("xy", shape, strict=True)
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    known = zero_points(model, numpy_helper.to_array)["w"]
    assert np.array_equal(np.broadcast_to(known, shape), np.broadcast_to(point, shape))
    source = save(model, tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx", encoding=encoding)
    row = report.layers[0]
    assert row.nonzeros == int((codes != point).sum())
    assert (row.encoding == "dense") == (
        encoding == "coo" or (encoding, points) == ("bitmask", "channels")
    )
    feed = {"x": rng.standard_normal((3, 64)).astype(np.float32)}
    assert run(source, feed)[0].tobytes() == run(tmp_path / "b.onnx", feed)[0].tobytes()
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(model)
    assert inspect_file(tmp_path / "b.onnx").nonzeros == row.nonzeros


@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul"])
def test_a_matrix_on_the_left_has_a_zero_point_for_each_row(
    tmp_path: Path, operator: str
) -> None:
    rng, shape = np.random.default_rng(0), (64, 96)
    point = rng.integers(0, 256, (64, 1))
    codes = np.where(rng.random(shape) < 0.1, rng.integers(0, 256, shape), point)
    tensors = [("w", codes), ("z", point[:, 0]), ("v", np.array(3))]
    inputs = ["w", "x", "z", "v"]
    if operator == "QLinearMatMul":
        inputs = ["w", "s", "z", "x", "s", "v", "s", "v"]
    kind = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.UINT8
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [96, 5]),
        helper.make_tensor_value_info("y", kind, [64, 5]),
    ]
    stored = [numpy_helper.from_array(a.astype(np.uint8), name) for name, a in tensors]
    stored.append(numpy_helper.from_array(np.array(0.1, np.float32), "s"))
    node = helper.make_node(operator, inputs, ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], stored)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    source = save(model, tmp_path / "a.onnx")
    # onnxruntime 1.32 takes one zero point for the whole left matrix alone, so nothing is run.
    report = pack_onnx(source, tmp_path / "b.onnx")
    row = next(row for row in report.layers if row.name == "w")
    assert (row.encoding, row.nonzeros) == ("gap", int((codes != point).sum()))
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(model)


def test_readers_that_disagree_about_zero(tmp_path: Path) -> None:
    """A weight that is read with two zero points has neither: its zeros are zeros."""
    codes = np.zeros((64, 64), np.uint8)
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in
               (("w", codes), ("s", np.float32(1)), ("z", np.uint8(3)), ("other", np.uint8(4)))]  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", each], [f"f{each}"])
        for each in ("z", "other")
    ]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    assert zero_points(helper.make_model(graph), numpy_helper.to_array) == {}


def quantized_product(
    seed: int, point: int, y: str, weights: str
) -> list[onnx.NodeProto]:
    """y = x @ (q - z) / 10, with `q` and `z` in nodes, or given from outside."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], [y]),
    ]
    scale = constant(np.array(0.1, np.float32), "s")
    if weights != "nodes":
        return [scale, *nodes]
    return [
        scale,
        constant(codes(seed, point), "q"),
        constant(np.array(point, np.uint8), "z"),
        *nodes,
    ]


def codes(seed: int, point: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random((WIDTH, WIDTH)) < 0.1, rng.integers(0, 256, (WIDTH, WIDTH)), point
    ).astype(np.uint8)


def test_branches_whose_zero_points_have_one_name(tmp_path: Path) -> None:
    """Each weight has that of its own branch. They stay there, as onnxruntime fails otherwise, and are told."""
    branches = [
        helper.make_graph(
            quantized_product(at, 100 + at, f"y{at}", "nodes"),
            f"b{at}",
            [],
            [value(f"y{at}", "n", WIDTH)],
        )
        for at in range(2)
    ]
    nodes = [
        constant(np.array(True), "yes"),
        helper.make_node(
            "If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]
        ),
    ]
    model = model_of(nodes)
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    expected = sum(int((codes(at, 100 + at) != 100 + at).sum()) for at in range(2))
    assert inspect_file(tmp_path / "a.onnx").nonzeros == report.nonzeros == expected
    assert onnx.load(str(tmp_path / "b.onnx")) == model
    assert any(
        "('q', 'q'): onnxruntime does not load quantized matrix products" in note
        for note in report.notes
    )


@pytest.mark.parametrize("weights", ["nodes", "given"])
def test_quantized_weights_in_functions(tmp_path: Path, weights: str) -> None:
    """A function has its weight, or each of its two calls gives it another one with a zero point of its own."""
    names = [] if weights == "nodes" else ["q", "z"]
    body = quantized_product(0, 100, "y", weights)
    function = helper.make_function(
        "mine", "layer", ["x", *names], ["y"], body, [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node(
            "layer", ["x", *(f"{name}0" for name in names)], ["a"], domain="mine"
        ),
        helper.make_node(
            "layer", ["a", *(f"{name}1" for name in names)], ["y"], domain="mine"
        ),
    ]
    arrays = {f"q{at}": codes(at, 100 + at) for at in range(2)} | {
        f"z{at}": np.uint8(100 + at) for at in range(2)
    }
    tensors = (
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in arrays.items()
        ]
        if names
        else []
    )
    model = model_of(nodes, tensors, functions=[function])
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    expected = sum(
        int((codes(at, 100 + at) != 100 + at).sum()) for at in range(2 if names else 1)
    )
    looked = [inspect_file(tmp_path / name).nonzeros for name in ("a.onnx", "b.onnx")]
    assert looked == [report.nonzeros] * 2 == [expected] * 2
    assert report.max_abs_difference == 0.0
    assert report.bytes_file < 0.8 * report.bytes_dense
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(model)


def test_quantized_convolutions_in_branches_are_packed(tmp_path: Path) -> None:
    """Both are weights, though what they become has one name in both branches."""
    branches = []
    for at in range(2):
        rng = np.random.default_rng(at)
        kernel = np.where(
            rng.random((32, 16, 3, 3)) < 0.1, rng.integers(1, 100, (32, 16, 3, 3)), 0
        ).astype(np.int8)
        arrays = {"q": kernel, "s": np.array(0.1, np.float32)}
        nodes = [
            helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
            helper.make_node("Conv", ["image", "w"], [f"c{at}"]),
            helper.make_node("ReduceSum", [f"c{at}"], [f"y{at}"], keepdims=0),
        ]
        tensors = [
            numpy_helper.from_array(array, name) for name, array in arrays.items()
        ]
        branches.append(
            helper.make_graph(nodes, f"b{at}", [], [value(f"y{at}")], tensors)
        )
    image = np.random.default_rng(2).standard_normal((1, 16, 5, 5)).astype(np.float32)
    nodes = [
        constant(np.array(True), "yes"),
        helper.make_node(
            "If", ["yes"], ["sum"], then_branch=branches[0], else_branch=branches[1]
        ),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    model = model_of(nodes, [numpy_helper.from_array(image, "image")])
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    looked = [inspect_file(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    assert [each.nonzeros for each in looked] == [report.nonzeros] * 2
    assert [
        row.encoding for row in report.layers if row.prunable and row.dtype == "int8"
    ] == ["gap", "gap"]
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert in_one_order(onnx.load(str(tmp_path / "c.onnx"))) == in_one_order(model)
