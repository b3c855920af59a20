"""Depthwise convolutions, alone and fused with a sparse 1x1 one: narrow lines, sums in place, numbers that are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsify_fx import runtime
from tests.runtime import cases
from tests.runtime.random_layers import ACTIVATIONS, Case


def layer(width: int, height: int, stride: int, activation: str, side: int = 3) -> Case:
    """A depthwise convolution of five channels in two images, with all of its weights."""
    random = np.random.default_rng(100 * width + 10 * height + stride)
    x = random.standard_normal((2, 5, height, width), np.float32)
    weight = random.standard_normal((5, 1, side, side), np.float32)
    bias = random.standard_normal(5, np.float32)
    attributes = {"strides": [stride] * 2, "pads": [side // 2] * 4, "group": 5}
    return Case("Conv", x, weight, bias, None, attributes, activation, True)


def fused(second: Case, channels: int, density: float) -> Case:
    """A 1x1 convolution of so many channels before it."""
    random = np.random.default_rng(channels)
    images, outputs, *size = second.x.shape
    x = random.standard_normal((images, channels, *size), np.float32)
    weight = random.standard_normal((outputs, channels, 1, 1), np.float32)
    weight *= random.random(weight.shape) <= density
    bias = random.standard_normal(outputs, np.float32)
    return Case("Conv", x, weight, bias, None, {}, "Relu6", True, second=second)


def run(given: list[Case], threads: int) -> list[np.ndarray]:
    parts = [cases.sparse_nodes(case, str(i)) for i, case in enumerate(given)]
    session = cases.open_session(
        cases.model_of(parts, given), runtime.library(), threads
    )
    results: list[np.ndarray] = session.run(None, cases.feeds(given))
    return results


def test_lines_of_every_width() -> None:
    """Where a line is no whole number of vectors, stores go on into the next one or begin within this one."""
    given = []
    for width in range(1, 36):
        height, activation = 1 + width * 7 % 23, ACTIVATIONS[width % len(ACTIVATIONS)]
        given += [layer(width, height, stride, activation) for stride in (1, 2)]
    given += [fused(case, 9, 0.4) for case in given]
    assert cases.worst_error(given, runtime.library()) < 1e-5
    for threads in (2, 3):
        for one, other in zip(run(given, 1), run(given, threads), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 40])
def test_rows_of_few_and_of_many_nonzeros(channels: int) -> None:
    given = [
        fused(layer(14, 9, 1, activation), channels, density)
        for activation in ACTIVATIONS
        for density in (0.0, 0.3, 1.0)
    ]
    given = [
        replace(case, activation=ACTIVATIONS[i % 5]) for i, case in enumerate(given)
    ]
    assert cases.worst_error(given, runtime.library()) < 1e-5


def test_what_is_no_number_stays_so() -> None:
    """Activations that cut off do it by two limits, which are infinite where there is none."""
    second = layer(9, 6, 1, "")
    case = replace(fused(second, 3, 1.0), activation="", bias=None)
    case.x[0, :, 2, 3], case.x[1, :, 0, 0], case.x[1, :, 5, 8] = np.nan, np.inf, -1e38
    dense = cases.model_of([cases.dense_nodes(case, "0")], [case])
    expected = cases.open_session(dense, None).run(None, cases.feeds([case]))[0]
    (got,) = run([case], 1)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4)
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(expected))


@pytest.mark.parametrize("width", [7, 13])
def test_a_sum_may_overwrite_what_is_added(width: int) -> None:
    """No lane of it is written before it was read, though other lanes may be computed twice."""
    case = layer(width, 11, 1, "Relu")
    case = replace(case, residual=np.maximum(case.x[:, ::-1], 0))
    nodes, weights = cases.sparse_nodes(case, "0")
    # A value of the session's own, which nobody else reads.
    nodes[0].input[4] = "made"
    relu = helper.make_node("Relu", ["z0"], ["made"])
    graph = helper.make_graph(
        [relu, *nodes],
        "sum",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in cases.feeds([case]).items()
        ],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, case.x.shape)],
        weights,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    )
    session = cases.open_session(model.SerializeToString(), runtime.library())
    (expected,) = run([case], 1)
    np.testing.assert_array_equal(session.run(None, cases.feeds([case]))[0], expected)
