"""The COO codec: the same bits back, in Python and in onnxruntime."""

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
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import decode_coo, encode_coo
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.tracing.clean import normalize_zeros

SPECIAL = np.array(
    [-0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, 1.0], np.float32
)


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def random_tensor(
    shape: tuple[int, ...], density: float, special: float, seed: int
) -> NDArray[np.float32]:
    """Normal values at `density`, a fraction `special` of them replaced by special ones, zeros elsewhere."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape, dtype=np.float32)
    values = np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), values)
    return np.where(rng.random(shape) < density, values, np.float32(0)).astype(
        np.float32
    )


@settings(max_examples=200, deadline=None)
@given(
    shape=array_shapes(min_dims=1, max_dims=5, max_side=12),
    density=st.floats(0, 1),
    special=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip_keeps_every_bit(
    shape: tuple[int, ...], density: float, special: float, seed: int
) -> None:
    array = random_tensor(shape, density, special, seed)
    sparse = encode_coo(numpy_helper.from_array(array, "w"))
    parsed = onnx.SparseTensorProto.FromString(sparse.SerializeToString())
    decoded = decode_coo(parsed)
    assert decoded.shape == array.shape
    assert decoded.dtype == np.float32
    assert decoded.tobytes() == array.tobytes()
    assert parsed.values.dims[0] == np.count_nonzero(array.view(np.uint32))
    assert list(parsed.indices.int64_data) == sorted(set(parsed.indices.int64_data))
    assert not parsed.indices.raw_data


def model_with(arrays: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A graph that returns its initializers."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in arrays]
    outputs = [
        helper.make_tensor_value_info(f"{n}_out", TensorProto.FLOAT, a.shape)
        for n, a in arrays.items()
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [], outputs, initializer=weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnxruntime_decodes_to_the_same_bits(tmp_path: Path, level: str) -> None:
    shapes = {
        "matrix": (40, 300),
        "conv": (8, 4, 3, 3),
        "vector": (700,),
        "zero": (9, 9),
    }
    arrays = {name: random_tensor(shape, 0.1, 0.2, 7) for name, shape in shapes.items()}
    arrays["zero"][:] = 0
    made = encode_initializers(model_with(arrays), Wanted("coo"))
    encoded = made.model
    assert {row.encoding for row in made.rows} == {"coo"}
    onnx.checker.check_model(encoded)
    path = tmp_path / "m.onnx"
    path.write_bytes(encoded.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, level
    )
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    for array, got in zip(arrays.values(), session.run(None, {}), strict=True):
        assert got.tobytes() == array.tobytes()


def test_varint_indices_make_it_more_than_five_times_smaller() -> None:
    tensor = numpy_helper.from_array(random_tensor((512, 1000), 0.1, 0, 5), "w")
    assert tensor.ByteSize() / encode_coo(tensor).ByteSize() > 5


def test_coordinate_indices_of_other_writers() -> None:
    sparse = onnx.SparseTensorProto(dims=[2, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([5.0, 7.0]), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([[0, 2], [1, 0]])))
    assert decode_coo(sparse).tolist() == [[0, 0, 5], [7, 0, 0]]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 6], "outside"),
        ([-1, 0], "outside"),
        ([1], "one per value"),
        ([[0, 3], [0, 0]], "outside shape"),
        ([[0], [1]], "coordinates"),
    ],
)
def test_bad_indices_are_errors(indices: list[Any], message: str) -> None:
    sparse = onnx.SparseTensorProto(dims=[2, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(f32([5, 7]), "layer.weight"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices, np.int64)))
    with pytest.raises(ExportError, match=rf"layer\.weight: .*{message}"):
        decode_coo(sparse)


def test_damaged_values_and_other_types_are_errors() -> None:
    sparse = encode_coo(numpy_helper.from_array(f32([0, 1]), "w"))
    sparse.values.raw_data = b"123"
    with pytest.raises(ExportError, match="damaged"):
        decode_coo(sparse)
    with pytest.raises(ExportError, match="INT64"):
        encode_coo(numpy_helper.from_array(np.array([0, 1]), "w"))


def test_normalize_zeros_changes_signs_of_zero_only() -> None:
    array = random_tensor((20, 20), 0.5, 0.5, 11)
    model = model_with({"w": array, "bias": f32([-0.0])})
    normalize_zeros(model)
    weight, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    assert not (np.signbit(weight) & (weight == 0)).any()
    assert weight[weight != 0].tobytes() == array[array != 0].tobytes()
    assert np.signbit(bias).all()
