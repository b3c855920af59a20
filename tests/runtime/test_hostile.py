"""Sizes that no memory holds, or that wrap in 64 bits, are errors in words; so is all else that makes no sense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from tests.runtime.cases import Case, open_session, worst_error

ROOT = Path(__file__).parents[2]
POINT = np.ones((4, 2, 1, 1), np.float32)
ONE = np.ones(1, np.float32)
GAP = np.zeros(1, np.uint8)


def run_empty(
    kind: str,
    dims: list[int],
    attributes: dict[str, Any],
    constants: dict[str, np.ndarray],
    *inputs: str,
) -> Any:
    """One operator whose input x has no elements, in sizes that numpy does not have."""
    x = TensorProto(name="x", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"")
    node = helper.make_node(kind, inputs, ["y"], domain="sparsify_fx", **attributes)
    weights = [
        x,
        *(numpy_helper.from_array(array, name) for name, array in constants.items()),
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "empty", [], [result], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
    return open_session(model.SerializeToString(), runtime.library()).run(None, {})[0]


@pytest.mark.parametrize(
    ("kind", "dims", "attributes", "constants", "inputs"),
    [
        ("PadPlanes", [2**30, 2**30, 0, 1], {}, {}, ["x"]),
        ("PadPlanes", [2**30, 2**30, 0, 2**24], {"edges": 1}, {}, ["x"]),
        ("PadPlanes", [2**31, 0, 4, 4], {}, {}, ["x"]),
        ("PadPlanes", [1, 0, 2**25, 4], {}, {}, ["x"]),
        ("SparseConv", [2**45, 2, 0, 3], {}, {"w": POINT}, ["x", "w"]),
        ("SparseConv", [2**30, 2, 0, 2**24], {"pads": [9, 0, 9, 0]}, {"w": POINT}, ["x", "w"]),
        ("MaxPool", [2**30, 2**30, 0, 3], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, {}, ["x"]),
        ("SparseMatMul", [2**31, 2**31, 0, 4], {"transB": 0}, {"w": POINT[:, :, 0, 0]}, ["x", "w"]),
        ("Attention", [2**40, 0, 12], {"heads": 1, "head_size": 4}, {}, ["x"]),
    ],
)  # fmt: skip
def test_tensors_without_elements_of_absurd_sizes(
    kind: str,
    dims: list[int],
    attributes: dict[str, Any],
    constants: dict[str, np.ndarray],
    inputs: list[str],
) -> None:
    with pytest.raises(
        Exception,
        match=rf"sparsify_fx\.{kind}: .*(is too large|number of|dimension).*\d",
    ):
        run_empty(kind, dims, attributes, constants, *inputs)


def test_tensors_without_elements_of_other_sizes_run() -> None:
    assert run_empty(
        "SparseConv", [0, 2, 2**20, 3], {}, {"w": POINT}, "x", "w"
    ).shape == (0, 4, 2**20, 3)
    assert run_empty("PadPlanes", [0, 2**20, 4, 4], {}, {}, "x").shape == (80,)
    assert (
        run_empty(
            "SparseMatMul",
            [2**30, 0, 4],
            {"transB": 0},
            {"w": POINT[:, :, 0, 0]},
            "x",
            "w",
        ).size
        == 0
    )


@pytest.mark.parametrize(
    ("shape", "group", "message"),
    [
        ([1, 1, 2**15, 2**15], 1, "number of taps is 1073741824"),
        ([2**15, 2**15, 1, 1], 2**15, "number of input channels is 1073741824"),
        ([1, 2**20, 40, 40], 1, "input channels of a group times phases"),
        ([2**63 - 1, 2, 1, 1], 1, r"sizes \[9223372036854775807, 2, 1, 1\]"),
    ],
)
def test_small_files_do_not_ask_for_gigabytes(
    shape: list[int], group: int, message: str
) -> None:
    attributes = {"weight_shape": shape, "group": group, "dilations": [200, 200]}
    with pytest.raises(Exception, match=message):
        run_empty(
            "SparseConv",
            [1, 0, 1, 1],
            attributes,
            {"w": ONE, "gaps": GAP},
            "x",
            "w",
            "gaps",
        )


def test_kernels_of_many_phases_load_at_once() -> None:
    """A phase for each of 65,025 taps, found without comparing each with all."""
    attributes = {
        "weight_shape": [1, 1, 255, 255],
        "strides": [255, 255],
        "pads": [255, 255, 0, 0],
    }
    y = run_empty(
        "SparseConv",
        [1, 1, 0, 1],
        attributes,
        {"w": ONE, "gaps": GAP},
        "x",
        "w",
        "gaps",
    )
    np.testing.assert_array_equal(y, np.zeros((1, 1, 1, 1), np.float32))


@pytest.mark.parametrize(
    "pads", [[70, 1, 0, 1], [0, 1, 70, 1], [50, 0, 90, 9], [0, 200, 0, 300]]
)
def test_bands_that_lie_in_the_padding(pads: list[int]) -> None:
    """Of a depthwise convolution after a 1x1 one: no line that it reads exists."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 5, 40), np.float32)
    weights = (
        random.standard_normal((70, 3, 1, 1), np.float32),
        random.standard_normal((70, 1, 3, 3), np.float32),
    )
    bias = random.standard_normal(70, np.float32)
    second = Case(
        "Conv", x, weights[1], bias, None, {"pads": pads, "group": 70}, "Relu", True
    )
    case = Case("Conv", x, weights[0], bias, None, {}, "Relu", True, second)
    assert worst_error([case], runtime.library()) < 1e-5


def test_layers_that_are_too_large_for_the_kernels_stay_dense() -> None:
    weight = np.zeros((1, 1, 2**18 + 1), np.float32)
    weight[0, 0, 7] = 1
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None])
        for name in "xy"
    )
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph(
            [node], "long", [x], [y], [numpy_helper.from_array(weight, "w")]
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    assert runtime.to_sparse(model, lambda layer: True)[1] == []
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weight[:, :, :-1], "w"))
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert names == ["w"]
    fed = np.arange(2**18 + 1, dtype=np.float32).reshape(1, 1, -1)
    got = open_session(sparse.SerializeToString(), runtime.library()).run(
        None, {"x": fed}
    )[0]
    np.testing.assert_array_equal(got, [[[7, 8]]])


@pytest.mark.slow
def test_a_thousand_hostile_models_give_errors_only() -> None:
    command = [
        sys.executable,
        str(ROOT / "tests/runtime/fuzz_kernels.py"),
        runtime.library(),
        "1000",
        "0",
    ]
    done = subprocess.run(
        [*command, "--memory", "3", "--seconds", "60"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1000 hostile models" in done.stdout
