"""Shapes are inferred from small constants and from the inputs' sizes, and no weight is copied for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.shapes import Shape, infer_shapes, skeleton
from tests.passes.onnx_graph.common import copy, make, node, normal


def reshaped() -> onnx.ModelProto:
    """A convolution whose output becomes rows, and a large matrix product of these; `N` samples of any width."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Reshape", "c rows", "r"),
        node("MatMul", "r m", "y"),
    ]
    tensors = {
        "w": normal(4, 3, 3, 3),
        "rows": np.array([0, -1, 64], np.int64),
        "m": normal(64, 500),
    }
    return make(nodes, tensors, ("N", 3, 8, "width"))


def test_names_of_axes_and_small_constants_are_followed() -> None:
    found = infer_shapes(reshaped())
    assert found["x"] == ("N", 3, 8, "width")
    assert found["c"][:3] == ("N", 4, 8)
    assert (found["r"][0], found["r"][2]) == ("N", 64)
    assert not isinstance(found["r"][1], int)
    assert (found["m"], found["rows"]) == ((64, 500), (3,))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"x": (2, 3, 8, 16)}, (2, 8, 500)),
        ({"x": (2, None, None, 16)}, (2, 8, 500)),
        ({"x": (2, "M", 8, 16), "unknown": (1, 2)}, (2, 8, 500)),
    ],
)
def test_sizes_of_inputs_decide(sizes: dict[str, Shape], expected: Shape) -> None:
    assert infer_shapes(reshaped(), sizes)["y"] == expected


def test_sizes_of_another_rank_are_left_aside() -> None:
    assert infer_shapes(reshaped(), {"x": (2, 3)}) == infer_shapes(reshaped(), {})


def test_recorded_shapes_of_outputs_do_not_contradict_the_sizes() -> None:
    model = reshaped()
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, 8, 500])
    )
    assert infer_shapes(model)["y"] == (7, 8, 500)
    assert infer_shapes(model, {"x": (2, 3, 8, 16)})["y"] == (2, 8, 500)


def test_recorded_shapes_count_when_asked_for() -> None:
    """After an operator that onnx does not know, what the file says is all there is."""
    nodes = [
        helper.make_node("Unknown", ["x"], ["u"], domain="elsewhere"),
        node("Relu", "u", "y"),
    ]
    x, u = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5])
        for name in "xu"
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "foreign", [x], [y], value_info=[u])
    )
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    assert "y" not in infer_shapes(model)
    assert infer_shapes(model, recorded=True)["y"] == ("N", 5)
    assert "y" not in infer_shapes(model, {"x": (2, 5)}, recorded=True)


def test_where_inference_gives_up_what_the_file_says_remains() -> None:
    model = make([node("Relu", "x", "y")], {})
    del model.opset_import[:]
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model)
    assert infer_shapes(model) == {"x": ("N", 3, 8, 8), "y": ("N", 3, 8, 8)}
    assert infer_shapes(model, {"x": (2, 3, 8, 8)}) == {"x": (2, 3, 8, 8)}


def test_large_sparse_and_external_weights_take_part_without_their_data() -> None:
    model = reshaped()
    external = copy(model)
    for tensor in external.graph.initializer:
        if tensor.name == "w":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="elsewhere.bin")
    sparse = copy(model)
    values = numpy_helper.from_array(np.ones(1, np.float32), "m")
    places = numpy_helper.from_array(np.array([5], np.int64), "places")
    sparse.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, places, [64, 500])
    )
    del sparse.graph.initializer[2]
    for each in (model, external, sparse):
        assert infer_shapes(each, {"x": (2, 3, 8, 16)})["y"] == (2, 8, 500)
        assert skeleton(each).ByteSize() < 2000 < 64 * 500 * 4
