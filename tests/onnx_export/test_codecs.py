"""Every encoding with every kind of values: decoded by onnxruntime, bit for bit, and folded away when it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES, Weight
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.codecs.encoding import entropy_bytes
from sparsify_fx.onnx_export.storage.codecs.operators import PORTABLE
from sparsify_fx.onnx_export.storage.codecs.patches import gap_codes
from sparsify_fx.onnx_export.storage.encodings import (
    Encoded,
    check_bits,
    encode_initializers,
)
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.packable import SMALL
from sparsify_fx.onnx_tools.weights import channel_axes
from tests.onnx_export.arrays import matmul_with, model_with, random_tensor

LEVELS = (
    "ORT_DISABLE_ALL",
    "ORT_ENABLE_BASIC",
    "ORT_ENABLE_EXTENDED",
    "ORT_ENABLE_ALL",
)
PAIRS = [(encoding, values) for encoding in ENCODINGS for values in VALUES]


def run(
    model: onnx.ModelProto, level: str = "ORT_ENABLE_ALL", save: Path | None = None
) -> list[NDArray[Any]]:
    """The outputs of a model without inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, level
    )
    if save is not None:
        options.optimized_model_filepath = str(save)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        item.name: np.ones((2, item.shape[1]), np.float32)
        for item in session.get_inputs()
    }
    return [np.asarray(array) for array in session.run(None, feeds)]


def stored_as(made: Encoded, name: str = "w") -> tuple[str, str]:
    row = next(row for row in made.rows if row.name == name)
    return row.encoding, row.values


@settings(max_examples=150, deadline=None)
@given(
    shape=array_shapes(min_dims=1, max_dims=5, max_side=9),
    density=st.one_of(st.floats(0, 1), st.floats(0, 0.02)),
    special=st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    seed=st.integers(0, 2**32 - 1),
    encoding=st.sampled_from(["auto", *ENCODINGS]),
    values=st.sampled_from(["fp32", "fp32-packed"]),
    dtype=st.sampled_from(["float32", "float32", "float16", "float64"]),
    functions=st.booleans(),
)
def test_lossless_forms_keep_every_bit(
    shape: tuple[int, ...], density: float, special: float, seed: int, encoding: str, values: str, dtype: str,
    functions: bool,
) -> None:  # fmt: skip
    array = random_tensor(shape, density, special, seed, np.dtype(dtype))
    model = model_with({"w": array})
    made = encode_initializers(model, Wanted(encoding, values, functions))
    parsed = onnx.ModelProto.FromString(made.model.SerializeToString())
    decoded = Decoder(parsed).array("w")
    assert (decoded.shape, decoded.dtype) == (array.shape, array.dtype)
    assert decoded.tobytes() == array.tobytes()
    check_bits(made.digests, parsed)
    onnx.checker.check_model(parsed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize(("encoding", "values"), PAIRS)
def test_onnxruntime_gives_the_same_bits_at_every_level(
    encoding: str, values: str, functions: bool, level: str
) -> None:
    weight = random_tensor((150, 401), 0.1, 0, 3)
    made = encode_initializers(matmul_with(weight), Wanted(encoding, values, functions))
    assert stored_as(made) == (
        encoding,
        "fp32" if (encoding, values) == ("coo", "fp32-packed") else values,
    )
    decoded = Decoder(made.model).array("w")
    assert (decoded.tobytes() == weight.tobytes()) == VALUES[values].lossless
    (got,), (expected,) = run(made.model, level), run(matmul_with(decoded), level)
    if (
        level == "ORT_DISABLE_ALL"
    ):  # a weight that is no constant takes another way through a matrix product
        np.testing.assert_allclose(
            got, expected, rtol=1e-6, atol=1e-6 * float(np.abs(expected).max())
        )
    else:
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize(("encoding", "values"), PAIRS)
def test_every_node_that_decodes_is_folded(
    tmp_path: Path, encoding: str, values: str, functions: bool, level: str
) -> None:
    dense = matmul_with(random_tensor((70, 45), 0.03, 0, 3))
    made = encode_initializers(dense, Wanted(encoding, values, functions))
    run(made.model, level, tmp_path / "packed.onnx")
    run(dense, level, tmp_path / "dense.onnx")
    nodes = [
        [node.op_type for node in onnx.load(str(tmp_path / f"{name}.onnx")).graph.node]
        for name in ("packed", "dense")
    ]
    assert nodes[0] == nodes[1]


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(
        st.one_of(st.integers(0, 70), st.integers(0, 70_000)), min_size=1, max_size=60
    ),
    bits=st.sampled_from([4, 8]),
    high_bits=st.sampled_from([2, 3, 4]),
)
def test_gap_codes_sum_up_to_the_places(
    gaps: list[int], bits: int, high_bits: int
) -> None:
    places = np.cumsum(np.array(gaps) + 1) - 1
    found = gap_codes(places, bits, high_bits)
    skips = np.diff(found.patched, prepend=-1) - 1
    for codes, width in (
        (found.low, bits),
        (found.high, high_bits),
        (skips, 8 - high_bits),
    ):
        assert codes.size == 0 or (codes.min() >= 0 and codes.max() < 2**width)
    steps = found.low + 1
    steps[found.patched] += found.high << bits
    assert (np.cumsum(steps) - found.back).tolist() == found.places.tolist()
    assert set(places.tolist()) <= set(found.places.tolist())
    assert found.places[-1] == places[-1]
    needed = sum((gap >> bits) >> high_bits for gap in gaps)
    assert places.size <= found.places.size <= places.size + needed


@pytest.mark.parametrize(
    "gap", [0, 1, 14, 15, 16, 62, 63, 64, 254, 255, 256, 1023, 1024, 4095, 4096, 70_000]
)
@pytest.mark.parametrize("first", [0, 1, 16, 17, 300])
def test_gaps_at_the_borders_of_the_codes(gap: int, first: int) -> None:
    array = np.zeros((1, first + 3 * (gap + 1) + 40), np.float32)
    array[0, first :: gap + 1][:4] = [1, 2, 3, 4]
    made = encode_initializers(matmul_with(array), Wanted("gap"))
    assert Decoder(made.model).array("w").tobytes() == array.tobytes()


def test_weights_without_a_nonzero_and_with_one() -> None:
    for place in (None, 0, 31, 3071):
        array = np.zeros((32, 96), np.float32)
        if place is not None:
            array.flat[place] = -0.0
        for encoding in ENCODINGS:
            made = encode_initializers(matmul_with(array), Wanted(encoding))
            assert Decoder(made.model).array("w").tobytes() == array.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    density=st.floats(0.01, 1),
    channels=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-42, 1e4),
    encoding=st.sampled_from([*ENCODINGS]),
)
def test_lossy_values_stay_within_their_bounds(
    density: float, channels: int, seed: int, scale: float, encoding: str
) -> None:
    weight = (random_tensor((33, channels), density, 0, seed) * scale).astype(
        np.float32
    )
    for values in ("fp16", "int8"):
        made = encode_initializers(matmul_with(weight), Wanted(encoding, values))
        decoded = Decoder(made.model).array("w")
        if values == "fp16":
            # Smaller numbers alone are none that half precision holds.
            fits = np.abs(weight).max(initial=0) >= 2.0**-14
            expected = weight.astype(np.float16) if fits else weight
            assert decoded.tobytes() == expected.astype(np.float32).tobytes()
        else:
            step = (
                np.abs(weight.astype(np.float64)).max(axis=0) / 127
            )  # a MatMul's channels are its columns
            assert (np.abs(decoded - weight) <= step * 0.5001 + 1e-38).all()
        assert (decoded[weight == 0] == 0).all()


def test_lossy_values_are_refused_where_they_would_be_wrong() -> None:
    for array, values in [
        ([[70000.0, 0]], "fp16"),
        ([[np.inf, 0]], "fp16"),
        ([[1e-9, 0]], "fp16"),
        ([[np.nan, 0]], "int8"),
        ([[1e-45, 0]], "int8"),
    ]:
        weight = np.array(array, np.float32)
        made = encode_initializers(matmul_with(weight), Wanted("gap", values))
        if np.isfinite(weight).all() and values == "int8":
            continue
        assert stored_as(made) == ("gap", "fp32")
        assert Decoder(made.model).array("w").tobytes() == weight.tobytes()
    assert (
        VALUES["fp32-packed"].refuses(Weight(np.array([1e-40], np.float32)))
        == "it holds denormal values"
    )


def test_lossy_values_are_for_prunable_weights_only() -> None:
    table = random_tensor((40, 30), 0.2, 0, 1)
    made = encode_initializers(
        model_with({"table": table, "bias": table[0]}), Wanted("gap", "int8")
    )
    assert {(row.encoding, row.values) for row in made.rows} == {("gap", "fp32")}


def test_the_channel_scale_of_int8_follows_the_operator() -> None:
    weight = random_tensor((20, 6, 3, 3), 1, 0, 1)
    for operator, axis in (("Conv", 0), ("ConvTranspose", 1)):
        model = matmul_with(weight[:, :, 0, 0])
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
        model.graph.node[0].op_type = operator
        made = encode_initializers(model, Wanted("dense", "int8"))
        scale = next(
            tensor
            for tensor in made.model.graph.initializer
            if tensor.name.endswith("channel_scale")
        )
        assert [place for place, size in enumerate(scale.dims) if size > 1] == [axis]


def test_recurrent_layers_have_a_scale_for_each_row_of_their_gates() -> None:
    weights = {"w": random_tensor((1, 64, 20), 1, 0, 1), "r": random_tensor((1, 64, 16), 1, 0, 2)}  # fmt: skip
    model = model_with(weights)
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16)
    model.graph.node.append(node)
    made = encode_initializers(model, Wanted("dense", "int8"))
    decoded = Decoder(made.model)
    for name, weight in weights.items():
        step = np.abs(weight).max(axis=2, keepdims=True) / 127
        assert (np.abs(decoded.array(name) - weight) <= step * 0.5001).all()


def test_a_weight_of_a_gemm_and_a_matmul_has_the_axis_of_both() -> None:
    model = matmul_with(random_tensor((20, 6), 1, 0, 1))
    assert channel_axes(model.graph) == {"w": -1}
    for transposed, found in ((0, {"w": -1}), (1, {})):
        both = onnx.ModelProto.FromString(model.SerializeToString())
        gemm = helper.make_node("Gemm", ["x", "w"], ["z"], transB=transposed)
        both.graph.node.append(gemm)
        assert channel_axes(both.graph) == found


def products_of(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A MatMul with each, so that all of them are prunable weights."""
    model = model_with(arrays)
    for node in model.graph.node:
        node.op_type = "MatMul"
        node.input.append(node.input[0])
    return model


@pytest.mark.parametrize("density", [0.001, 0.05, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("values", VALUES)
def test_auto_takes_the_smallest(density: float, values: str) -> None:
    """Of those without sparse initializers, unless these save a tenth of the file."""
    model = matmul_with(random_tensor((300, 1000), density, 0, 3))
    sizes = {
        e: encode_initializers(model, Wanted(e, values)).model.ByteSize()
        for e in ENCODINGS
    }
    made = encode_initializers(model, Wanted("auto", values))
    sparse = sizes.pop("coo")
    best = min(sizes, key=lambda name: sizes[name])
    if sparse <= 0.89 * sizes[best]:
        sizes["coo"], best = sparse, "coo"
    assert made.model.ByteSize() <= sizes[best] + 8
    assert stored_as(made)[0] == best


def test_auto_takes_coo_only_for_a_tenth_of_the_whole_file() -> None:
    """The same weight, alone and beside one that has no zeros."""
    sparse, full = (
        random_tensor((60, 200), 0.02, 0, 3),
        random_tensor((90, 99), 1, 0, 4),
    )
    alone = encode_initializers(model_with({"w": sparse}), Wanted("auto"))
    assert stored_as(alone)[0] == "coo"
    beside = encode_initializers(model_with({"w": sparse, "v": full}), Wanted("auto"))
    assert not beside.model.graph.sparse_initializer
    assert {row.encoding for row in beside.rows} == {"gap", "dense"}
    web = encode_initializers(model_with({"w": sparse}), Wanted("auto", target="web"))
    assert stored_as(web)[0] == "coo"


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("encoding", ["gap", "bitmask", "dense"])
def test_the_portable_form_has_no_other_operators(encoding: str, values: str) -> None:
    """For all runtimes: no MaxUnpool, no Scan, and ConstantOfShape says what it fills in."""
    arrays = {f"w{i}": random_tensor((300, 260), 0.05 + i / 9, 0, i) for i in range(3)}
    arrays["few"] = random_tensor((300, 260), 0.002, 0, 9)
    arrays["odd"] = random_tensor((101, 103), 0.1, 0, 9)
    model = products_of(arrays)
    made = encode_initializers(model, Wanted(encoding, values))
    added = made.model.graph.node[: -len(model.graph.node)]
    assert {node.op_type for node in added} <= PORTABLE
    for node in added:
        if node.op_type == "ConstantOfShape":
            assert [each.name for each in node.attribute] == ["value"]
        if node.op_type == "ScatterElements":
            assert onnx.helper.get_node_attr_value(node, "axis") == 0


@pytest.mark.parametrize("density", [0.02, 0.05, 0.1, 0.2])
def test_gap_stays_near_the_entropy_bound(density: float) -> None:
    weight = random_tensor((1000, 1000), density, 0, 9)
    kept = int(np.count_nonzero(weight))
    (row,) = encode_initializers(matmul_with(weight), Wanted("gap")).rows
    assert row.bytes_stored <= 1.12 * entropy_bytes(weight.size, kept, 32)


def test_auto_leaves_small_and_full_tensors_and_ends_of_the_graph_alone() -> None:
    small, full = (
        np.zeros((1, (SMALL - 32) // 4), np.float32),
        random_tensor((60, 60), 1, 0, 2),
    )
    made = encode_initializers(
        model_with({"small": small, "full": full}), Wanted("auto")
    )
    assert {row.encoding for row in made.rows} == {"dense"}
    model = model_with({"w": np.zeros((30, 30), np.float32)})
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (30, 30))
    )
    for encoding in ("coo", "gap", "bitmask"):
        made = encode_initializers(model, Wanted(encoding))
        assert stored_as(made) == ("dense", "fp32")
        assert not made.model.graph.sparse_initializer


def test_dense_changes_nothing_and_the_original_is_only_read() -> None:
    model = model_with(
        {
            "w": random_tensor((90, 90), 0.1, 0.1, 4),
            "i": np.arange(9),
            "s": np.array(["a", "b"], object),
        }
    )
    before = model.SerializeToString(deterministic=True)
    assert encode_initializers(model, Wanted("dense")).model == model
    encode_initializers(model, Wanted("gap", functions=True))
    assert model.SerializeToString(deterministic=True) == before


def test_weights_stored_alike_share_one_function() -> None:
    arrays = {f"w{i}": random_tensor((40 + i, 50), 0.3, 0, i) for i in range(4)}
    made = encode_initializers(model_with(arrays), Wanted("gap", functions=True))
    assert {function.name for function in made.model.functions} <= {
        "gap_fp32",
        "gap_fp32_2",
        "gap_fp32_3",
        "gap_fp32_4",
    }
    assert len(made.model.functions) <= 2  # an odd number of codes needs one node more
    calls = [node for node in made.model.graph.node if node.domain == "sparsify_fx"]
    assert [node.output[0] for node in calls] == [*arrays]


def test_old_operators_are_refused_or_avoided() -> None:
    model = model_with({"w": random_tensor((90, 90), 0.1, 0, 4)}, opset=9, ir_version=4)
    with pytest.raises(
        ExportError, match="gap with values fp32 needs opset 11, but the model has 9"
    ):
        encode_initializers(model, Wanted("gap"))
    with pytest.raises(ExportError, match="fp16 needs opset 11"):
        encode_initializers(model, Wanted("auto", "fp16"))
    made = encode_initializers(model, Wanted("auto"))
    assert stored_as(made) == ("coo", "fp32")
    assert made.model.ir_version == 5
    assert run(made.model)[0].tobytes() == run(model)[0].tobytes()


def test_check_bits_finds_a_changed_sign_of_zero_and_a_missing_tensor() -> None:
    model = model_with({"w": np.array([[0, 1], [0, 0]], np.float32)})
    changed = model_with({"w": np.array([[-0.0, 1], [0, 0]], np.float32)})
    digests = encode_initializers(model, Wanted("coo")).digests
    check_bits(digests, encode_initializers(model, Wanted("gap")).model)
    with pytest.raises(ExportError, match="w: decoding"):
        check_bits(digests, changed)
    with pytest.raises(ExportError, match="w: the file holds no such tensor"):
        check_bits(digests, model_with({}))
