"""An MLP and the normalization before it become one operator, and come back; what does not quite match stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx import runtime
from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.cost import Times
from tests.runtime import cases

WIDTH, HIDDEN, TOKENS = 40, 200, 130


def mlp(**changed: object) -> onnx.ModelProto:
    """x + MLP(norm(x)) as PyTorch's exporter writes it; `changed` are attributes of the normalization."""
    random = np.random.default_rng(0)
    arrays = {
        "scale": random.standard_normal(WIDTH, np.float32),
        "shift": random.standard_normal(WIDTH, np.float32),
        "up": cases.sparse(random, (WIDTH, HIDDEN))
        + np.eye(WIDTH, HIDDEN, dtype=np.float32),
        "up_bias": random.standard_normal(HIDDEN, np.float32),
        "down": np.eye(HIDDEN, WIDTH, dtype=np.float32),
        "down_bias": random.standard_normal(WIDTH, np.float32),
    }
    given = {"axis": -1, "epsilon": 1e-6} | changed
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], **given),
        helper.make_node("MatMul", ["n", "up"], ["u"]),
        helper.make_node("Add", ["u", "up_bias"], ["ub"]),
        helper.make_node("Gelu", ["ub"], ["g"]),
        helper.make_node("MatMul", ["g", "down"], ["d"]),
        helper.make_node("Add", ["d", "down_bias"], ["db"]),
        helper.make_node("Add", ["x", "db"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["images", TOKENS, WIDTH]
        )
        for name in "xy"
    )
    weights = [numpy_helper.from_array(each, name) for name, each in arrays.items()]
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


def run(model: onnx.ModelProto, threads: int = 1, images: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    x = 3 + random.standard_normal((images, TOKENS, WIDTH), np.float32)
    session = cases.open_session(
        model.SerializeToString(), runtime.library(), threads=threads
    )
    results: list[np.ndarray] = session.run(None, {"x": x})
    return results


def rewritten(model: onnx.ModelProto) -> tuple[list[str], onnx.ModelProto]:
    """All layers sparse, and checked: the same results, and the same bits from standard operators again."""
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    back = runtime.to_dense(sparse)
    assert not any(node.domain for node in back.graph.node)
    onnx.checker.check_model(back, full_check=True)
    for one, other, again in zip(run(model), run(sparse), run(back), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)
        np.testing.assert_array_equal(again, one)
    return [node.op_type for node in sparse.graph.node], sparse


def test_an_mlp_is_one_operator_with_the_same_bits_on_two_threads() -> None:
    kinds, sparse = rewritten(mlp())
    assert kinds == ["SparseMlp"]
    for images in (1, 3):
        np.testing.assert_array_equal(
            run(sparse, 1, images)[0], run(sparse, 2, images)[0]
        )


def _output(model: onnx.ModelProto, name: str, last: int = WIDTH) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", TOKENS, last])
    )


def _read_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["n"], ["z"]))
    _output(model, "z")


def _broadcast_scale(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones(1, np.float32), "scale")
    )


def _statistics(model: onnx.ModelProto) -> None:
    model.graph.node[0].output.append("mean")
    _output(model, "mean", 1)


def _tail(model: onnx.ModelProto, kind: str) -> None:
    """Something of the hidden values that is no epilogue."""
    model.graph.node[3].op_type = kind


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: _output(model, "g", HIDDEN), ["SparseMatMul", "SparseMatMul"]),
        (lambda model: _output(model, "n"), ["LayerNormalization", "SparseMlp"]),
        (_read_twice, ["LayerNormalization", "SparseMlp", "Neg"]),
        (_broadcast_scale, ["LayerNormalization", "SparseMlp"]),
        (_statistics, ["LayerNormalization", "SparseMlp"]),
        (lambda model: _tail(model, "Tanh"), ["SparseMatMul", "Tanh", "SparseMatMul"]),
        (lambda model: _tail(model, "Relu"), ["SparseMlp"]),
    ],
    ids=[
        "hidden read",
        "normalized read",
        "twice",
        "broadcast",
        "statistics",
        "tanh",
        "relu",
    ],
)
def test_what_somebody_else_reads_or_what_is_not_quite_that_stays(
    change: Callable[[onnx.ModelProto], None], expected: list[str]
) -> None:
    model = mlp()
    change(model)
    kinds, _ = rewritten(model)
    assert kinds == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"axis": 2}, ["SparseMlp"]),
        ({"axis": 1}, ["LayerNormalization", "SparseMlp"]),
        ({"epsilon": 0.5}, ["SparseMlp"]),
    ],
)
def test_the_normalization_is_over_the_last_axis_alone(
    attributes: dict[str, object], expected: list[str]
) -> None:
    model = mlp(**attributes)
    if attributes.get("axis") == 1:
        ones = np.ones((TOKENS, WIDTH), np.float32)
        for place, name in enumerate(("scale", "shift")):
            model.graph.initializer[place].CopyFrom(numpy_helper.from_array(ones, name))
    kinds, _ = rewritten(model)
    assert kinds == expected


def test_values_far_from_zero_lose_no_digits() -> None:
    """A mean of squares less the square of the mean would have no correct digit here."""
    sparse, _ = runtime.to_sparse(mlp(), lambda layer: True)
    exact = 1000 + np.random.default_rng(2).integers(0, 2, (1, TOKENS, WIDTH))
    shifted, plain = (
        cases.open_session(sparse.SerializeToString(), runtime.library()).run(
            None, {"x": x.astype(np.float32)}
        )[0]
        - x
        for x in (exact, exact - 1000)
    )
    np.testing.assert_allclose(shifted, plain, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_random_products_with_normalizations_and_second_products(threads: int) -> None:
    random = np.random.default_rng(threads)
    given = [cases.random_mlp(random) for _ in range(60)]
    cases.worst_error(given, runtime.library(), threads)


def refused(message: str, **changed: object) -> None:
    case = cases.random_mlp(np.random.default_rng(5))
    nodes, weights = cases.sparse_nodes(case, "0")
    assert nodes[0].op_type == "SparseMlp"
    for name, value in changed.items():
        kept = [each for each in nodes[0].attribute if each.name != name]
        del nodes[0].attribute[:]
        nodes[0].attribute.extend([*kept, helper.make_attribute(name, value)])
    with pytest.raises(Exception, match=rf"sparsify_fx\.SparseMlp: .*{message}"):
        cases.open_session(
            cases.model_of([(nodes, weights)], [case]), runtime.library()
        ).run(None, cases.feeds([case]))


def test_what_does_not_fit_together_is_named() -> None:
    refused("norm_epsilon must be one number", norm_epsilon=[1.0, 2.0])
    refused("activation", second_activation="Tanh")
    refused("sizes|weight|shape", second_weight_shape=[3, 3])


def test_layers_are_chosen_with_what_joining_them_saves() -> None:
    """The first product alone would be a little slower than dense; together with the second one it is not."""

    def timed(layer: Candidate) -> Times:
        first = layer.node.output[0] == "u"
        return Times(100_000, 92_000 if first else 50_000)

    model = mlp()
    together, names = runtime.to_sparse(model, timed=timed)
    assert len(names) == 2
    assert [node.op_type for node in together.graph.node] == ["SparseMlp"]
    _output(model, "g", HIDDEN)
    assert len(runtime.to_sparse(model, timed=timed)[1]) == 1
