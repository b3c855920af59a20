"""Values of less than 32 bits in sparse operators: what kernels, `unpack` and the standard decode form make of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.coded_weights import hold_weights
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.runtime.coded.gaps import places_of, write_places
from sparsify_fx.runtime.coded.weights import Codes, decode_codes, encode_codes
from tests.onnx_export.arrays import run
from tests.runtime.cases import open_session

KINDS = ("fp16", "int8", "fp32-packed")
OLD = Path(__file__).parent / "old_files/sparse_fp32.onnx"
Array = NDArray[Any]


def pruned(shape: tuple[int, ...], density: float = 0.1, seed: int = 0) -> Array:
    """Magnitudes of a pruned layer, a thousand times larger in some channels, and an all-zero one."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32) * 0.03
    weight[np.abs(weight) < np.quantile(np.abs(weight), 1 - density)] = 0
    weight[1::3] *= 20
    weight[2] = 0
    return weight


def model_of(kind: str, weight: Array, **attributes: Any) -> onnx.ModelProto:
    """A layer that gives its own weights back for an input of ones and zeros."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    tensors = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


LAYERS = {
    "conv": model_of("Conv", pruned((12, 8, 3, 3))),
    "grouped": model_of("Conv", pruned((12, 4, 1, 1), 0.4), group=2),
    "matmul": model_of("MatMul", pruned((40, 24))),
    "gemm": model_of("Gemm", pruned((40, 24)), transB=0),
    "gemm-transposed": model_of("Gemm", pruned((24, 40)), transB=1),
}
"""Channels along the first and the last axis."""


def units(model: onnx.ModelProto) -> Array:
    """For every weight of a row an input that is one there and zero elsewhere."""
    node, shape = model.graph.node[0], tuple(model.graph.initializer[0].dims)
    if node.op_type == "Conv":
        groups = 2 if node.attribute else 1
        count = int(np.prod(shape[1:]))
        unit = np.eye(count, dtype=np.float32).reshape(count, *shape[1:])
        return np.tile(unit, (1, groups, 1, 1))
    rows = shape[1] if any(a.name == "transB" and a.i for a in node.attribute) else shape[0]  # fmt: skip
    return np.eye(rows, dtype=np.float32)


def sparse_form(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The layer as a sparse operator with values of this kind."""
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert names == ["w"]
    held = hold_weights(sparse, model, names, kind, TensorReader())
    assert held["w"].row.values == kind
    return sparse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_compute_with_the_bits_of_the_standard_decode_form(
    layer: str, kind: str, tmp_path: Path
) -> None:
    model = LAYERS[layer]
    onnx.save(model, tmp_path / "dense.onnx")
    pack_onnx(
        tmp_path / "dense.onnx",
        tmp_path / "gap.onnx",
        encoding="gap",
        values=kind,
        target="onnxruntime",
        verify=False,
    )
    feed = {"x": units(model)}
    # Stock onnxruntime decodes the weight with the nodes in the file.
    (expected,) = run(tmp_path / "gap.onnx", feed)
    sparse = sparse_form(model, kind)
    data = sparse.SerializeToString()
    (got,) = open_session(data, runtime.library()).run(None, feed)
    assert got.tobytes() == expected.tobytes()
    assert np.count_nonzero(got) > 0
    # And so does `unpack`, which needs no library.
    back = numpy_helper.to_array(runtime.to_dense(sparse).graph.initializer[0])
    unpack_onnx(tmp_path / "gap.onnx", tmp_path / "plain.onnx")
    plain = onnx.load(tmp_path / "plain.onnx").graph.initializer[0]
    assert back.tobytes() == numpy_helper.to_array(plain).tobytes()


@pytest.mark.parametrize("density", [0, 0.001, 0.02, 0.1, 0.5, 1])
def test_places_take_few_bits_and_come_back(density: float) -> None:
    places = np.flatnonzero(np.random.default_rng(0).random(60_000) < density)
    codes, bits = write_places(places)
    np.testing.assert_array_equal(places_of(codes, bits, places.size), places)
    if 0.01 < density < 1:
        entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
        assert 8 * codes.size < 1.13 * entropy * 60_000


def test_every_half_and_denormals_and_signs_come_back() -> None:
    """In the library too, which has no instruction for half precision."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 64)
    values, gaps = encode_codes(Codes("fp16", halves))
    expected = halves.astype(np.float32)
    assert decode_codes(values, gaps, expected.shape).tobytes() == expected.tobytes()
    sparse, _ = runtime.to_sparse(model_of("MatMul", expected), lambda layer: True)
    parts = {each.name: each for each in sparse.graph.initializer}
    for name, array in (("w.values", values), ("w.gaps", gaps)):
        parts[name].CopyFrom(numpy_helper.from_array(array, name))
    feed = {"x": np.eye(len(expected), dtype=np.float32)}
    data = sparse.SerializeToString()
    (got,) = open_session(data, runtime.library()).run(None, feed)
    np.testing.assert_array_equal(got, expected)


def test_values_that_a_kind_cannot_hold_stay_float32() -> None:
    large = np.zeros((64, 64), np.float32)
    large[0, :3] = 1e30, 2, 1e-40
    for kind in ("fp16", "fp32-packed"):
        model = model_of("MatMul", large)
        sparse, names = runtime.to_sparse(model, lambda layer: True)
        held = hold_weights(sparse, model, names, kind, TensorReader())
        assert held["w"].row.values == "fp32"
        assert runtime.format_of(sparse) == 1


def test_a_file_of_an_earlier_version_loads_runs_and_is_unpacked(
    tmp_path: Path,
) -> None:
    """Written by commit 34e8749, before there were other values than float32."""
    assert runtime.format_of(onnx.load(OLD)) == 1
    unpack_onnx(OLD, tmp_path / "plain.onnx")
    tensors = onnx.load(tmp_path / "plain.onnx").graph.initializer
    data = b"".join(each.raw_data for each in sorted(tensors, key=lambda e: e.name))
    assert hashlib.sha256(data).hexdigest()[:16] == "22322738a02b89ca"
    feed = {"x": np.random.default_rng(0).random((1, 64, 28, 28), np.float32)}
    (got,) = runtime.session(OLD, threads=1).run(None, feed)
    (expected,) = run(tmp_path / "plain.onnx", feed)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert {row.values for row in inspect_file(OLD).layers} == {"fp32"}


def header(**changes: int) -> tuple[Array, Array]:
    """Codes of a small weight with another number in a byte of the header."""
    values, gaps = encode_codes(
        Codes("int8", np.eye(8, dtype=np.int8), np.ones(8, np.int32))
    )
    places = {"format": 0, "kind": 1, "bits": 2, "detail": 3, "count": 8}
    changed = values.copy()
    for name, number in changes.items():
        changed[places[name]] = number
    return changed, gaps


VALUES, GAPS = header()
DAMAGED = {
    "newer": (*header(format=3), "newer version of sparsify_fx|install a newer one"),
    "unknown": (*header(kind=9), "newer version of sparsify_fx|install a newer one"),
    "bits": (*header(bits=9), "9 bits"),
    "no bits": (*header(bits=0), "0 bits"),
    "count": (*header(count=200), "fewer than their header says|200 values"),
    "few gaps": (VALUES, GAPS[:2], "end before the last value"),
    "wide": (VALUES, np.full(99, 0xFF, np.uint8), "end before the last value"),
    "short": (VALUES[:-1], GAPS, "bytes"),
    "long": (np.append(VALUES, VALUES[:1]), GAPS, "bytes"),
    "no header": (VALUES[:9], GAPS, "shorter than their header"),
    "exponents": (*header(kind=3, detail=3), "3 bits"),
    "beyond": (VALUES, GAPS + np.uint8(85), "beyond the end|before the last value"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_codes_are_errors_in_words(case: str, tmp_path: Path) -> None:
    values, gaps, words = DAMAGED[case]
    sparse, _ = runtime.to_sparse(
        model_of("MatMul", np.eye(8, dtype=np.float32)), lambda layer: True
    )
    for tensor, array in zip(sparse.graph.initializer, (values, gaps), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(Exception, match=words):
        open_session(sparse.SerializeToString(), runtime.library())
    onnx.save(sparse, tmp_path / "damaged.onnx")
    with pytest.raises(Exception, match=words) as found:
        unpack_onnx(tmp_path / "damaged.onnx", tmp_path / "plain.onnx")
    assert "w: its gap codes are damaged" in str(found.value)
    assert not (tmp_path / "plain.onnx").exists()
