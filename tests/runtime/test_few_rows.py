"""Products with so few rows that a lean matrix is made for them, beside onnxruntime's own dense ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from sparsify_fx.runtime.candidates import candidate_of
from sparsify_fx.runtime.choice.cost import Times, estimate
from sparsify_fx.runtime.known import Constants
from sparsify_fx.runtime.rewrite import to_sparse


def network(weight: NDArray[np.float32]) -> onnx.ModelProto:
    """relu(x @ weight + bias + x @ weight), of which the first product takes all that follows as its own."""
    weights = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.linspace(-1, 1, weight.shape[1], dtype=np.float32), "b"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["one"]),
        helper.make_node("MatMul", ["x", "w"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(weight)])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])
    graph = helper.make_graph(nodes, "few", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def random_weight(inner: int, outer: int, density: float) -> NDArray[np.float32]:
    """Some columns, which are rows of the matrix, are empty."""
    random = np.random.default_rng(inner + outer)
    weight = random.standard_normal((inner, outer), np.float32)
    weight[random.random(weight.shape) > density] = 0
    weight[:, ::5] = 0
    return weight


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("inner", "outer", "density"),
    [(5, 3, 0.5), (300, 129, 0.02), (768, 300, 0.3), (65535, 7, 0.01), (70000, 40, 0.05), (140000, 3, 0.2)],
)  # fmt: skip
def test_every_number_of_rows(
    inner: int, outer: int, density: float, threads: int
) -> None:
    model = network(random_weight(inner, outer, density))
    sparse, names = to_sparse(model, lambda _: True)
    assert names == ["w"]
    one, other = (runtime.session(each.SerializeToString(), threads=threads) for each in (model, sparse))  # fmt: skip
    random = np.random.default_rng(0)
    # More rows than a vector has lanes last, and one again: the lean matrix stays beside the other.
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 1):
        x = random.standard_normal((rows, inner), np.float32)
        (wanted,), (found,) = one.run(None, {"x": x}), other.run(None, {"x": x})
        assert np.abs(found - wanted).max() <= 2e-5 * max(1, np.abs(wanted).max())


def test_the_same_row_gives_the_same_bits_from_run_to_run() -> None:
    sparse, _ = to_sparse(network(random_weight(768, 300, 0.3)), lambda _: True)
    x = np.random.default_rng(0).standard_normal((1, 768), np.float32)
    results = {
        runtime.session(sparse.SerializeToString(), threads=threads)
        .run(None, {"x": x})[0]
        .tobytes()
        for threads in (1, 2, 1)
    }
    assert len(results) == 1


def test_what_is_not_finite_stays_so() -> None:
    weight = random_weight(64, 16, 0.2)
    sparse, _ = to_sparse(network(weight), lambda _: True)
    session = runtime.session(sparse.SerializeToString(), threads=1)
    x = np.ones((1, 64), np.float32)
    x[0, 7] = np.inf
    (found,) = session.run(None, {"x": x})
    assert np.isfinite(found[0, weight[7] == 0]).all()
    assert not np.isfinite(found[0, weight[7] > 0]).any()


def times(rows: int, density: float) -> Times:
    """What the estimate gives for the product of GPT-2's first feed-forward layer."""
    weight = random_weight(768, 3072, density)
    model = network(weight)
    node = model.graph.node[1]
    shapes = {"x": (rows, 768), "two": (rows, 3072)}
    layer = candidate_of(node, Constants(model.graph, numpy_helper.to_array), shapes)
    assert layer is not None
    return estimate(layer)


def test_a_single_row_is_sparse_where_few_rows_are_not() -> None:
    assert times(1, 0.3).sparse_wins
    assert not times(1, 0.8).sparse_wins
    assert times(4, 0.1).sparse_wins
    assert not times(4, 0.7).sparse_wins
