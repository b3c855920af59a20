"""Layer normalizations that are part of a product, where the mean is large beside what is left of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from tests.runtime import cases


def normalized(width: int, epsilon: float) -> onnx.ModelProto:
    """y = LayerNormalization(x) times the identity."""
    arrays = {
        "s": np.ones(width, np.float32),
        "t": np.zeros(width, np.float32),
        "w": np.eye(width, dtype=np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "t"], ["h"], epsilon=epsilon),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name in "xy"
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "norm", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def outputs(width: int, epsilon: float, x: np.ndarray) -> np.ndarray:
    sparse, names = runtime.to_sparse(normalized(width, epsilon), lambda layer: True)
    assert (names, len(sparse.graph.node)) == (["w"], 1)
    session = cases.open_session(sparse.SerializeToString(), runtime.library())
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("width", [7, 61, 768])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-5])
def test_rows_of_one_number_become_zeros(width: int, epsilon: float) -> None:
    # The mean of such rows is rounded, and what that leaves is more than a small epsilon.
    numbers = np.array([0.3, -1.7, 100.3, 1e4, 3e-7, 0], np.float32)
    x = np.repeat(numbers[:, None], width, axis=1)
    assert np.abs(outputs(width, epsilon, x)).max() < 1e-6


def test_a_large_mean_costs_no_more_digits_than_in_onnxruntime() -> None:
    noise = np.random.default_rng(0).standard_normal((40, 768))
    x = (1e4 + noise).astype(np.float32)
    apart = x.astype(np.float64) - x.astype(np.float64).mean(axis=1, keepdims=True)
    exact = apart / np.sqrt((apart**2).mean(axis=1, keepdims=True) + 1e-5)
    assert np.abs(outputs(768, 1e-5, x) - exact).max() < 1e-3
