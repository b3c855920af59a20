"""Quantized (QDQ) layers as sparse operators between activations in 8 bits: what they compute, hold, and give back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from sparsify_fx import runtime
from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.runtime.quantized.codes import Scale
from sparsify_fx.runtime.quantized.record import KEY
from tests.onnx_export.arrays import random_tensor
from tests.runtime import cases

Array = NDArray[Any]

SCALE_X, SCALE_Y = np.float32(0.02), np.float32(0.05)
SHAPE = (2, 16, 9, 9)


def codes(
    kind: str, point: Array | int, shape: tuple[int, ...], spread: int = 90
) -> Array:
    """A weight in 8 bits of which nine of ten entries are the zero point."""
    random = np.random.default_rng(1)
    low, high = (-128, 128) if kind == "int8" else (0, 256)
    along = (-1, *[1] * (len(shape) - 1)) if np.ndim(point) else ()
    points = np.broadcast_to(np.reshape(point, along), shape)
    near = points + random.integers(-spread, spread + 1, shape)
    near = np.clip(near, low, high - 1)
    return np.where(random.random(shape) < 0.1, near, points).astype(kind)


def layer(
    weight: Array,
    scale: Array,
    point: Array | None,
    *,
    axis: int = 0,
    bias: Array | None = None,
    kind: str = "Conv",
    readers: int = 1,
    point_x: int = 100,
) -> onnx.ModelProto:
    """`readers` layers with one quantized weight between activations in 8 bits; their outputs are y0, y1, ..."""
    arrays = {"w": weight, "w_scale": scale, "x_scale": SCALE_X, "y_scale": SCALE_Y}
    arrays |= {"x_zero": np.uint8(point_x), "y_zero": np.uint8(128)}
    arrays |= {} if point is None else {"w_zero": point}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xf"]),
        helper.make_node(
            "DequantizeLinear",
            ["w", "w_scale", *(["w_zero"] if point is not None else [])],
            ["wf"],
            axis=axis,
        ),
    ]
    if bias is not None:
        arrays |= {"b": bias, "b_scale": (SCALE_X * scale).astype(np.float32)}
        # Without a zero point its type is that of the codes.
        nodes.append(
            helper.make_node("DequantizeLinear", ["b", "b_scale"], ["bf"], axis=0)
        )
    given = ["xf", "wf", *(["bf"] if bias is not None else [])]
    for number in range(readers):
        more = {"transB": 0} if kind == "Gemm" else {}
        nodes += [
            helper.make_node(kind, given, [f"c{number}"], **more),
            helper.make_node("QuantizeLinear", [f"c{number}", "y_scale", "y_zero"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "y_scale", "y_zero"], [f"y{number}"]),
        ]  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    shape = SHAPE if kind == "Conv" else (5, weight.shape[0])
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    ends += [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(readers)]  # fmt: skip
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def outputs(model: onnx.ModelProto, library: str | None = None) -> list[Array]:
    """Of stock onnxruntime without any optimization, or with our operators."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    session = cases.open_session(model.SerializeToString(), library)
    return [np.asarray(each) for each in session.run(None, {"x": x})]


def check_steps(expected: Array, got: Array) -> None:
    """At most one step of the result's 8 bits apart, and that in few places: sums that end between two steps."""
    assert np.unique(expected).size > 12
    steps = np.abs(expected - got) / SCALE_Y
    assert steps.max() < 1.001
    assert np.mean(steps > 0.5) < 0.002


def check_same(expected: onnx.ModelProto, got: onnx.ModelProto) -> None:
    """The same nodes and tensors, in any order in which nodes come after what they read."""
    for kind in ("node", "initializer"):
        one, two = (
            sorted(each.SerializeToString() for each in getattr(model.graph, kind))
            for model in (expected, got)
        )
        assert one == two
    assert KEY not in {item.key for item in got.metadata_props}


CHANNELS = np.linspace(0.001, 0.004, 24).astype(np.float32)
FAR = np.geomspace(1e-5, 4e-3, 24).astype(np.float32)
POINTS = np.arange(-12, 12).astype(np.int8)
BIAS = np.arange(-12, 12, dtype=np.int32)


def conv(
    kind: str, point: Array | int, scale: Array, *, side: int = 3, spread: int = 90, told: bool = True, **more: Any
) -> onnx.ModelProto:  # fmt: skip
    """A convolution; `told`: the node that dequantizes its weight has a zero point."""
    weight = codes(kind, point, (24, 16, side, side), spread)
    return layer(weight, scale, np.asarray(point, kind) if told else None, **more)


def product(form: str, point: int, scale: Array, **more: Any) -> onnx.ModelProto:
    return layer(codes(form, point, (40, 24)), scale, np.asarray(point, form), **more)


ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "one scale": lambda: conv("int8", 0, CHANNELS[3]),
    "no zero point": lambda: conv("uint8", 0, CHANNELS, told=False),
    "channels": lambda: conv("int8", 0 * POINTS, CHANNELS),
    "zero points of channels": lambda: conv("int8", POINTS, CHANNELS),
    "unsigned": lambda: conv("uint8", 128, CHANNELS[3], side=1),
    "too far from its zero point": lambda: conv("uint8", 20, CHANNELS[3], side=1, spread=220),
    "scales of another axis": lambda: conv("int8", 0, CHANNELS[:16], told=False, axis=1),
    "scales far apart": lambda: conv("int8", 0, FAR, told=False),
    "symmetric activations": lambda: conv("int8", 0, CHANNELS, told=False, point_x=128),
    "bias": lambda: conv("int8", 0, CHANNELS, told=False, bias=3000 * BIAS),
    "shared": lambda: conv("int8", 0, CHANNELS, told=False, readers=2),
    "product": lambda: product("int8", 0, CHANNELS[5], kind="MatMul"),
    "channels of a product": lambda: layer(codes("int8", 0, (40, 24)), CHANNELS, None, axis=1, kind="MatMul"),
    "gemm with bias": lambda: product("uint8", 90, CHANNELS[5], kind="Gemm", bias=500 * BIAS),
}  # fmt: skip
IN_FLOATS = {
    "too far from its zero point",
    "scales of another axis",
    "scales far apart",
}


@pytest.mark.parametrize("case", ODD)
def test_layers_equal_the_meaning_of_the_file_to_a_step(
    case: str, tmp_path: Path
) -> None:
    model = ODD[case]()
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert names == ["w"]
    for expected, got in zip(
        outputs(model), outputs(sparse, runtime.library()), strict=True
    ):
        check_steps(expected, got)
    check_same(model, runtime.to_dense(sparse))
    # The weight keeps its 8 bits in the file wherever the kernels can hold them.
    (weight,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")  # fmt: skip
    point = [
        numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w_zero"
    ]
    (scale,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w_scale")  # fmt: skip
    (maker,) = (node for node in model.graph.node if node.output[0] == "wf")
    given = Scale(
        scale, point[0] if point else np.zeros((), weight.dtype), maker.attribute[0].i
    )
    assert (given.coded(weight) is None) == (case in IN_FLOATS)


def test_integers_have_the_same_semantics_where_they_do_not_overflow() -> None:
    """Small codes: stock onnxruntime in integers, with no sums that saturate, is a step away at most."""
    model = layer(codes("int8", 0, (24, 16, 3, 3)) // 8, CHANNELS * 8, None)
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    check_steps(session.run(None, {"x": x})[0], outputs(sparse, runtime.library())[0])


def _unlike() -> dict[str, onnx.ModelProto]:
    """Quantized layers that have to stay as they are."""
    weight = codes("int8", 0, (24, 16, 3, 3))
    found = {
        "a scale of zero": layer(weight, CHANNELS * (np.arange(24) > 0), None),
        "the weight is an output": layer(weight, CHANNELS, None),
        "the scale is an input": layer(weight, CHANNELS, None),
        "another reader": layer(weight, CHANNELS, None),
        "no activations in 8 bits": layer(weight, CHANNELS, None),
    }
    wanted = helper.make_tensor_value_info("wf", TensorProto.FLOAT, None)
    found["the weight is an output"].graph.output.append(wanted)
    scale = helper.make_tensor_value_info("w_scale", TensorProto.FLOAT, [24])
    found["the scale is an input"].graph.input.append(scale)
    graph = found["another reader"].graph
    graph.node.append(helper.make_node("Abs", ["wf"], ["abs"]))
    graph.output.append(helper.make_tensor_value_info("abs", TensorProto.FLOAT, None))
    found["no activations in 8 bits"].graph.node[3].input[0] = "x"
    return found


@pytest.mark.parametrize("case", _unlike())
def test_other_quantized_layers_stay(case: str) -> None:
    model = _unlike()[case]
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert names == []
    assert sparse == model


def test_layers_that_are_not_chosen_have_their_codes_again() -> None:
    """Of two layers one becomes sparse: all that the other one reads is as before."""
    model = layer(codes("int8", POINTS, (24, 16, 3, 3)), CHANNELS, POINTS)
    second = layer(codes("int8", 0, (24, 16, 3, 3)), CHANNELS, None, bias=np.arange(24, dtype=np.int32))  # fmt: skip
    for tensor in second.graph.initializer:
        tensor.name = f"2{tensor.name}"
    for node in second.graph.node:
        node.input[:] = [f"2{n}" if n != "x" else n for n in node.input]
        node.output[:] = [f"2{n}" for n in node.output]
    second.graph.output[0].name = "2y0"
    graph = model.graph
    graph.node.extend(second.graph.node)
    graph.initializer.extend(second.graph.initializer)
    graph.output.extend(second.graph.output)
    for wanted in ("w", "2w"):
        sparse, names = runtime.to_sparse(
            model, lambda c, w=wanted: c.node.input[1] == w
        )
        assert names == [wanted]
        (other,) = {"w", "2w"} - {wanted}
        kept = {t.name: t for t in sparse.graph.initializer}
        assert kept[other] == next(t for t in graph.initializer if t.name == other)
        check_same(model, runtime.to_dense(sparse))
        for expected, got in zip(
            outputs(model), outputs(sparse, runtime.library()), strict=True
        ):
            check_steps(expected, got)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Four random images."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.left = iter(random.standard_normal((4, 1, 64, 28, 28)).astype(np.float32))

    def get_next(self) -> dict[str, Array] | None:
        image = next(self.left, None)
        return None if image is None else {"x": image}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, the second with few zeros, as onnxruntime quantizes them."""
    logging.getLogger().setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("quantized")
    arrays = {
        "w1": random_tensor((128, 64, 3, 3), 0.05, 0, 1),
        "b1": np.linspace(-1, 1, 128).astype(np.float32),
        "w2": random_tensor((128, 128, 3, 3), 0.9, 0, 2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"], pads=[1] * 4),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 28, 28])
        for name, channels in (("x", 64), ("y", 128))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    onnx.save(model, str(folder / "float.onnx"))
    quantize_static(
        folder / "float.onnx", folder / "qdq.onnx", Samples(), quant_format=QuantFormat.QDQ, per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    return folder / "qdq.onnx"


def stock(file: Path, feed: dict[str, Array]) -> Array:
    """What onnxruntime makes of a file in integers."""
    session = onnxruntime.InferenceSession(
        str(file), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feed)[0])


def test_pack_takes_the_layers_that_gain_and_the_report_says_which(
    source: Path, tmp_path: Path
) -> None:
    report = pack_onnx(source, tmp_path / "b.onnx", target="sparse-ort")
    assert report.sparse_layers == ("w1_quantized",)
    notes = " ".join(report.notes)
    assert "1 quantized layers ('w1_quantized') became sparse operators" in notes
    assert "1 quantized weights ('w2_quantized') stay in their layers" in notes
    assert "with all layers in float32 the outputs of both files differ by" in notes
    rows = {row.name: row for row in inspect_file(tmp_path / "b.onnx").layers}
    assert (rows["w1_quantized"].encoding, rows["w1_quantized"].values) == ("sparse-ort", "int8")  # fmt: skip
    assert (
        rows["w1_quantized"].nonzeros == report.nonzeros - rows["w2_quantized"].nonzeros
    )
    assert runtime.format_of(onnx.load(tmp_path / "b.onnx")) == 2
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    first, back = (onnx.load(file) for file in (source, tmp_path / "c.onnx"))
    assert {t.name: t for t in first.graph.initializer} == {t.name: t for t in back.graph.initializer}  # fmt: skip
    assert KEY not in {item.key for item in back.metadata_props}
    x = {"x": np.random.default_rng(3).standard_normal((1, 64, 28, 28)).astype(np.float32)}  # fmt: skip
    one, two = (stock(file, x) for file in (source, tmp_path / "c.onnx"))
    np.testing.assert_array_equal(one, two)


@pytest.mark.sweep
def test_the_whole_model_decides_with_autotune(source: Path, tmp_path: Path) -> None:
    report = pack_onnx(
        source, tmp_path / "b.onnx", target="sparse-ort", autotune=True, measure=True
    )
    assert report.speed is not None
    whole = onnx.load(tmp_path / "b.onnx")
    choice = {p.key: p.value for p in whole.metadata_props}.get(
        "sparsify_fx.choice", ""
    )
    assert not report.sparse_layers or '"ratio":' in choice


def test_a_packed_file_may_be_packed_again(source: Path, tmp_path: Path) -> None:
    for first, second in ((source, "b.onnx"), (tmp_path / "b.onnx", "c.onnx")):
        report = pack_onnx(first, tmp_path / second, target="sparse-ort")
        assert report.sparse_layers == ("w1_quantized",)
    one, two = (onnx.load(tmp_path / name).graph for name in ("b.onnx", "c.onnx"))
    assert sorted(t.name for t in one.initializer) == sorted(t.name for t in two.initializer)  # fmt: skip


def test_a_scale_that_does_not_fit_is_refused_in_words() -> None:
    sparse, _ = runtime.to_sparse(ODD["channels"](), lambda layer: True)
    (item,) = sparse.metadata_props
    item.value = item.value.replace("int8", "uint8")
    with pytest.raises(ExportError, match="another type"):
        runtime.to_dense(sparse)
    other, _ = runtime.to_sparse(conv("int8", 0, np.float32(1e-6)), lambda layer: True)
    item.value = other.metadata_props[0].value
    with pytest.raises(ExportError, match="codes are beyond -128 to 127"):
        runtime.to_dense(sparse)


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"w": {}}', '{"w": {"node": "", "tensors": [], "type": "int8"}}',
     '{"w": {"node": "////", "tensors": [], "type": "int8"}}'],
)  # fmt: skip
def test_damaged_records_are_refused_in_words(damage: str) -> None:
    sparse, _ = runtime.to_sparse(ODD["channels"](), lambda layer: True)
    for item in sparse.metadata_props:
        item.value = damage
    with pytest.raises(ExportError, match="quantized weights"):
        runtime.to_dense(sparse)
