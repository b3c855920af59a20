"""Attributes and inputs that make no sense are errors of onnxruntime that say what was expected; nothing crashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from tests.runtime.cases import open_session

WEIGHT = np.ones((4, 2, 3, 3), np.float32)
VALUES, GAPS = np.ones(3, np.float32), np.array([0, 5, 255], np.uint8)


def session_of(
    kind: str, inputs: list[str], attributes: dict[str, Any], **constants: Any
) -> Any:
    """A model of one operator; inputs that are no constants are inputs of the model."""
    node = helper.make_node(kind, inputs, ["y"], domain="sparsify_fx", **attributes)
    free = [name for name in inputs if name and name not in constants]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in free
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [
        numpy_helper.from_array(array, name) for name, array in constants.items()
    ]
    graph = helper.make_graph([node], "bad", given, [result], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return open_session(model.SerializeToString(), runtime.library())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": [0, 1]}, "strides holds 0"),
        ({"strides": [1]}, "strides needs 2 values"),
        ({"strides": [1, 2**40]}, "strides holds"),
        ({"dilations": [1, -1]}, "dilations holds -1"),
        ({"pads": [0, 0, 0, -1]}, "pads holds -1"),
        ({"pads": [1, 1]}, "pads needs 4 values"),
        ({"pads": [2**62] * 4}, "pads holds"),
        ({"group": 0}, "group must be positive"),
        ({"group": 3}, "divide the number of output channels"),
        ({"group": -4}, "group must be positive"),
        ({"activation": "Tanh"}, "unknown activation 'Tanh'"),
    ],
)
def test_conv_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session_of("SparseConv", ["x", "w"], attributes, w=WEIGHT)


@pytest.mark.parametrize(
    ("constants", "shape", "message"),
    [
        ({"w": VALUES, "gaps": GAPS}, None, "weight_shape must give"),
        ({"w": VALUES, "gaps": GAPS}, [90, 9], "3 or 4 dimensions"),
        ({"w": VALUES, "gaps": GAPS}, [4, 2, 3], "beyond the end"),
        ({"w": VALUES, "gaps": GAPS[:2]}, [4, 2, 9, 9], "same length"),
        ({"w": VALUES, "gaps": GAPS}, [4, 2, 0, 3], "must be positive"),
        ({"w": VALUES, "gaps": GAPS}, [2**40, 2, 3, 3], "too large"),
        ({"w": VALUES, "gaps": GAPS}, [2**31, 2**31, 2**31, 2**31], "too large"),
        ({"w": VALUES, "gaps": GAPS}, [-4, -2, 9, 9], "must be positive"),
        (
            {"w": VALUES.reshape(1, 3), "gaps": GAPS.reshape(1, 3)},
            [4, 2, 9, 9],
            "vectors of the same length",
        ),
        ({"w": np.ones((3, 3), np.float32)}, None, "3 or 4 dimensions"),
        ({"w": np.ones((0, 2, 3, 3), np.float32)}, None, "must be positive"),
    ],
)
def test_conv_weights(
    constants: dict[str, Any], shape: list[int] | None, message: str
) -> None:
    attributes = {} if shape is None else {"weight_shape": shape}
    inputs = ["x", "w", *(["gaps"] if "gaps" in constants else [])]
    with pytest.raises(Exception, match=message):
        session_of("SparseConv", inputs, attributes, **constants)


def test_weights_must_be_constant() -> None:
    for kind in ("SparseConv", "SparseMatMul"):
        with pytest.raises(
            Exception, match=f"{kind}: input W must be a constant initializer"
        ):
            session_of(kind, ["x", "w"], {})


def test_weights_must_be_float32() -> None:
    with pytest.raises(Exception, match=r"(?i)type"):
        session_of("SparseConv", ["x", "w"], {}, w=WEIGHT.astype(np.float64))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": zeros(1, 3, 8, 8)}, "3 channels; the weight needs 2"),
        ({"x": zeros(1, 2, 8)}, "3 dimensions; the weight has 4"),
        ({"x": zeros(1, 2, 2, 8)}, "smaller than the kernel"),
        ({"x": zeros(1, 2, 8, 8), "b": zeros(5)}, "a value per output channel"),
        ({"x": zeros(1, 2, 8, 8), "b": zeros(4, 1)}, "a value per output channel"),
        ({"x": zeros(1, 2, 8, 8), "z": zeros(1, 4, 6, 5)}, "the shape of the output"),
        ({"x": zeros(1, 2, 8, 8), "z": zeros(4)}, "the shape of the output"),
    ],
)
def test_conv_inputs(feed: dict[str, np.ndarray], message: str) -> None:
    inputs = ["x", "w", "", "b" if "b" in feed else "", "z" if "z" in feed else ""]
    while not inputs[-1]:
        inputs.pop()
    session = session_of("SparseConv", inputs, {}, w=WEIGHT)
    with pytest.raises(Exception, match=message):
        session.run(None, feed)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": zeros(2, 6)}, "a last dimension of 5"),
        ({"x": zeros(5), "b": zeros(6)}, "a float32 vector of 7 values"),
        ({"x": zeros(2, 5), "z": zeros(2, 5)}, "the shape of the output"),
    ],
)
def test_matmul_inputs(feed: dict[str, np.ndarray], message: str) -> None:
    inputs = ["x", "w", "", "b" if "b" in feed else "", "z" if "z" in feed else ""]
    while not inputs[-1]:
        inputs.pop()
    session = session_of("SparseMatMul", inputs, {}, w=np.ones((5, 7), np.float32))
    with pytest.raises(Exception, match=message):
        session.run(None, feed)


def test_a_session_goes_on_after_an_error() -> None:
    session = session_of("SparseConv", ["x", "w"], {}, w=WEIGHT)
    with pytest.raises(Exception, match="channels"):
        session.run(None, {"x": zeros(1, 3, 8, 8)})
    assert session.run(None, {"x": zeros(1, 2, 8, 8) + 1})[0].max() == 18


def test_without_the_library_onnxruntime_names_the_operator() -> None:
    node = helper.make_node("SparseConv", ["x", "w"], ["y"], domain="sparsify_fx")
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 8, 8])
        for name in "xy"
    )
    graph = helper.make_graph(
        [node], "alone", [x], [y], [numpy_helper.from_array(WEIGHT, "w")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("sparsify_fx", 1)], ir_version=9
    )
    with pytest.raises(Exception, match="sparsify_fx"):
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )


POINT, TAPS = np.ones((4, 2, 1, 1), np.float32), np.ones((4, 1, 3, 3), np.float32)
JOINED = {"depthwise_group": 4}


@pytest.mark.parametrize(
    ("constants", "attributes", "message"),
    [
        ({"w": WEIGHT, "d": TAPS}, JOINED, "needs a 1x1 convolution"),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"strides": [2, 2]},
            "needs a 1x1 convolution",
        ),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"pads": [1, 0, 0, 0]},
            "needs a 1x1 convolution",
        ),
        ({"w": POINT, "d": TAPS}, {}, "and a depthwise one of size 3, 5 or 7"),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"depthwise_strides": [3, 1]},
            "depthwise one of size 3, 5 or 7",
        ),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"depthwise_dilations": [1, 2]},
            "depthwise one of size 3, 5 or 7",
        ),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"depthwise_pads": [1, 1]},
            "depthwise_pads needs 4 values",
        ),
        (
            {"w": POINT, "d": TAPS},
            JOINED | {"depthwise_activation": "Tanh"},
            "unknown activation 'Tanh'",
        ),
        (
            {"w": POINT, "d": TAPS[:2]},
            {"depthwise_group": 2},
            "2 channels; the first gives 4",
        ),
        ({"w": POINT}, JOINED, "input D must be a constant initializer"),
        ({"w": POINT, "d": VALUES, "dgaps": GAPS}, JOINED, "weight_shape must give"),
        (
            {"w": POINT, "d": VALUES, "dgaps": GAPS},
            JOINED | {"depthwise_shape": [4, 1, 3, 3]},
            "beyond the end",
        ),
    ],
)
def test_joined_layers(
    constants: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    inputs = ["x", "w", "", "", "d", *(["dgaps"] if "dgaps" in constants else [])]
    with pytest.raises(Exception, match=message):
        session_of("SparseConvDepthwise", inputs, attributes, **constants)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": zeros(1, 3, 8, 8)}, "3 channels; the weight needs 2"),
        ({"x": zeros(1, 2, 8)}, "3 dimensions; the weight has 4"),
        ({"x": zeros(1, 2, 2, 8)}, "smaller than the kernel"),
        ({"x": zeros(1, 2, 8, 8), "b": zeros(5)}, "input B must be a float32 vector"),
        (
            {"x": zeros(1, 2, 8, 8), "c": zeros(4, 1)},
            "input C must be a float32 vector",
        ),
    ],
)
def test_joined_inputs(feed: dict[str, np.ndarray], message: str) -> None:
    inputs = [
        "x",
        "w",
        "",
        "b" if "b" in feed else "",
        "d",
        "",
        "c" if "c" in feed else "",
    ]
    session = session_of("SparseConvDepthwise", inputs, JOINED, w=POINT, d=TAPS)
    with pytest.raises(Exception, match=message):
        session.run(None, feed)


@pytest.mark.parametrize(
    ("constants", "attributes", "message"),
    [
        (
            {"w": POINT, "v": WEIGHT},
            {},
            "needs two convolutions of images with 1x1 kernels",
        ),
        (
            {"w": WEIGHT, "v": POINT},
            {},
            "needs two convolutions of images with 1x1 kernels",
        ),
        ({"w": POINT, "v": POINT}, {"pads": [1, 0, 0, 0]}, "one group and no padding"),
        ({"w": POINT, "v": POINT}, {"group": 2}, "one group and no padding"),
        ({"w": POINT, "v": POINT[:, :, 0]}, {}, "needs two convolutions of images"),
        (
            {"w": POINT, "v": POINT[:3]},
            {},
            "the projection gives 3 channels, what it is added to 4",
        ),
        (
            {"w": POINT, "v": POINT},
            {"projection_activation": "Relu"},
            "the projection cannot have an activation",
        ),
        (
            {"w": POINT, "v": POINT},
            {"projection_strides": [0, 1]},
            "projection_strides holds 0",
        ),
        ({"w": POINT}, {}, "input V must be a constant initializer"),
        ({"w": POINT, "v": VALUES, "vgaps": GAPS}, {}, "weight_shape must give"),
    ],
)
def test_sums(
    constants: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    inputs = ["x", "w", "", "", "p", "v", *(["vgaps"] if "vgaps" in constants else [])]
    with pytest.raises(Exception, match=message):
        session_of("SparseConvSum", inputs, attributes, **constants)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(1, 3, 8, 8)},
            "3 channels; the weight needs 2",
        ),
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(1, 2, 8)},
            "3 dimensions; the weight has 4",
        ),
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(2, 2, 8, 8)},
            "do not give results of the same shape",
        ),
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(1, 2, 8, 7)},
            "do not give results of the same shape",
        ),
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(1, 2, 8, 8), "b": zeros(5)},
            "input B must be a float32 vector",
        ),
        (
            {"x": zeros(1, 2, 8, 8), "p": zeros(1, 2, 8, 8), "c": zeros(4, 1)},
            "input C must be a float32 vector",
        ),
    ],
)
def test_sum_inputs(feed: dict[str, np.ndarray], message: str) -> None:
    inputs = [
        "x",
        "w",
        "",
        "b" if "b" in feed else "",
        "p",
        "v",
        "",
        "c" if "c" in feed else "",
    ]
    session = session_of("SparseConvSum", inputs, {}, w=POINT, v=POINT)
    with pytest.raises(Exception, match=message):
        session.run(None, feed)


def test_a_sum_needs_both_inputs() -> None:
    session = session_of(
        "SparseConvSum", ["x", "w", "", "", "", "v"], {}, w=POINT, v=POINT
    )
    with pytest.raises(Exception, match="input P is missing"):
        session.run(None, {"x": zeros(1, 2, 8, 8)})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "kernel_shape must be"),
        ({"kernel_shape": [3, 2]}, "kernel_shape must be"),
        ({"kernel_shape": [2**40, 2**40]}, "kernel_shape must be"),
        ({"kernel_shape": [3, 3], "strides": [1, 3]}, "strides must be 1 or 2"),
        ({"kernel_shape": [3, 3], "dilations": [2, 1]}, "dilations must be 1"),
        ({"kernel_shape": [3, 3], "pads": [0, 0, 3, 0]}, "pads must be smaller"),
    ],
)
def test_pools(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session_of("MaxPool", ["x"], attributes)


POOLED = {"pool_kernel_shape": [3, 3], "pool_strides": [2, 2]}


@pytest.mark.parametrize(
    ("constants", "attributes", "message"),
    [
        ({"w": WEIGHT}, {}, "pool_kernel_shape must be"),
        ({"w": WEIGHT}, {"pool_kernel_shape": [4, 4]}, "pool_kernel_shape must be"),
        (
            {"w": WEIGHT},
            POOLED | {"pool_strides": [3, 1]},
            "pool_strides must be 1 or 2",
        ),
        ({"w": WEIGHT}, POOLED | {"pool_strides": [2]}, "pool_strides needs 2 values"),
        (
            {"w": WEIGHT},
            POOLED | {"pool_pads": [3, 0, 0, 0]},
            "pool_pads must be smaller",
        ),
        (
            {"w": WEIGHT},
            POOLED | {"pool_dilations": [1, 2]},
            "pool_dilations must be 1",
        ),
        (
            {"w": WEIGHT},
            POOLED | {"pool_group": 4},
            "group must be positive and divide",
        ),
        ({"w": WEIGHT}, POOLED | {"pool_activation": "Relu"}, "pool_activation"),
        ({"w": WEIGHT}, POOLED | {"group": 2}, "in two dimensions with one group"),
        ({"w": WEIGHT[0]}, POOLED, "in two dimensions with one group"),
        ({"w": WEIGHT}, POOLED | {"pads": [0, 0, 0, -1]}, "pads holds -1"),
        ({"w": WEIGHT}, POOLED | {"activation": "Tanh"}, "unknown activation 'Tanh'"),
        (
            {"w": VALUES, "gaps": GAPS},
            POOLED | {"weight_shape": [4, 2, 3, 3]},
            "beyond the end",
        ),
        (
            {"w": VALUES, "gaps": GAPS},
            POOLED | {"weight_shape": [1, 2**17, 3, 3]},
            "too many input channels",
        ),
        ({}, POOLED, "input W must be a constant"),
    ],
)
def test_joined_pools(
    constants: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    inputs = ["x", "w", *(["gaps"] if "gaps" in constants else [])]
    with pytest.raises(Exception, match=message):
        session_of("SparseConvPool", inputs, attributes, **constants)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": zeros(1, 3, 8, 8)}, "3 channels; the weight needs 2"),
        ({"x": zeros(1, 2, 8)}, "3 dimensions; the weight has 4"),
        ({"x": zeros(1, 2, 2, 8)}, "smaller than the kernel"),
        ({"x": zeros(1, 2, 4, 8)}, "smaller than the kernel"),
        ({"x": zeros(1, 2, 8, 8), "b": zeros(5)}, "a value per output channel"),
    ],
)
def test_joined_pool_inputs(feed: dict[str, np.ndarray], message: str) -> None:
    inputs = ["x", "w", "", *(["b"] if "b" in feed else [])]
    session = session_of(
        "SparseConvPool", inputs[: 4 if "b" in feed else 2], POOLED, w=WEIGHT
    )
    with pytest.raises(Exception, match=message):
        session.run(None, feed)


@pytest.mark.parametrize("shape", [(1, 2, 8), (1, 2, 2, 8)])
def test_pool_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        Exception, match=r"dimensions; the weight has 4|smaller than the kernel"
    ):
        session_of("MaxPool", ["x"], {"kernel_shape": [3, 3]}).run(
            None, {"x": zeros(*shape)}
        )


HEADS = {"heads": 2, "head_size": 4}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "heads and head_size must be from 1 to"),
        ({"heads": 2}, "heads and head_size must be from 1 to"),
        ({"heads": -2, "head_size": -4}, "heads and head_size must be from 1 to"),
        ({"heads": 2**62, "head_size": 2**62}, "heads and head_size must be from 1 to"),
        (HEADS | {"scales": [1.0]}, "scales needs 3 values"),
        (HEADS | {"scales": [1.0, 1.0, 1.0, 1.0]}, "scales needs 3 values"),
    ],
)
def test_attention_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session_of("Attention", ["x"], attributes)


@pytest.mark.parametrize(
    "shape", [(2, 24), (1, 2, 3, 24), (1, 2, 23), (1, 2, 8), (1, 2, 0)]
)
def test_attention_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match="with 3 dimensions, the last one of 24"):
        session_of("Attention", ["x"], HEADS).run(None, {"x": zeros(*shape)})
