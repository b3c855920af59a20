"""Constants, common subexpressions, identities and unused parts: bit for bit the same outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.common_subexpressions import COMMON_SUBEXPRESSIONS
from sparsify_fx.passes.onnx_graph.drop_identities import DROP_IDENTITIES
from sparsify_fx.passes.onnx_graph.drop_unused import DROP_UNUSED
from sparsify_fx.passes.onnx_graph.fold_constants import FOLD_CONSTANTS
from tests.passes.onnx_graph.common import copy, kinds, make, node, normal, run, shapes

X = normal(2, 3, 8, 8)


def after(one: GraphPass, model: onnx.ModelProto) -> onnx.ModelProto:
    """The changed copy; its outputs have the same bits."""
    work = copy(model)
    assert one.exact
    assert one.run(work)
    assert not one.run(work)
    onnx.checker.check_model(work, full_check=True)
    for a, b in zip(run(model, X), run(work, X), strict=True):
        assert a.tobytes() == b.tobytes()
    return work


def kept(one: GraphPass, model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert not one.run(model)
    assert model.SerializeToString(deterministic=True) == before


def test_constants_are_folded_as_far_as_they_go() -> None:
    nodes = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        *(node("Mul", "k two", "l"), node("Add", "l k", "m"), node("Mul", "x m", "y")),
    ]
    model = after(FOLD_CONSTANTS, make(nodes, {"k": normal(3, 1, 1)}))
    assert kinds(model) == ["Mul"]
    assert shapes(model) == {"m": (3, 1, 1)}


def test_a_constant_that_would_grow_is_not_folded() -> None:
    nodes = [node("Expand", "k size", "l"), node("Add", "x l", "y")]
    kept(
        FOLD_CONSTANTS, make(nodes, {"k": normal(3, 1, 1), "size": np.array([3, 8, 8])})
    )
    wide = [
        node("Tile", "k twice", "l"),
        node("Slice", "l zero three one", "m"),
        node("Add", "x m", "y"),
    ]
    tensors = {
        "k": normal(3, 8, 8),
        "twice": np.array([1, 2, 1]),
        "zero": np.array([0]),
        "three": np.array([8]),
    }
    kept(FOLD_CONSTANTS, make(wide, {**tensors, "one": np.array([1])}))


def test_a_constant_that_others_read_frees_nothing() -> None:
    nodes = [node("Neg", "k", "l"), node("Add", "x l", "m"), node("Mul", "m k", "y")]
    kept(FOLD_CONSTANTS, make(nodes, {"k": normal(3, 8, 8)}))
    assert kinds(after(FOLD_CONSTANTS, make(nodes, {"k": normal(3, 1, 1)}))) == [
        "Add",
        "Mul",
    ]  # 12 bytes more


def test_decoders_of_sparse_weights_stay() -> None:
    """Gap codes: small codes that onnxruntime unpacks at load, also where the result would be small."""
    nodes = [
        *(
            node("Cast", "gaps", "wide", to=7),
            node("Add", "wide unit", "steps"),
            node("CumSum", "steps axis", "ends"),
        ),
        *(
            node("Sub", "ends unit", "places"),
            node("ScatterElements", "zeros places values", "flat", axis=0),
        ),
        *(node("Reshape", "flat size", "k"), node("Mul", "x k", "y")),
    ]
    tensors = {
        "gaps": np.array([1, 3], np.uint8),
        "unit": np.array([1]),
        "axis": np.array(0),
        "values": normal(2),
        "zeros": np.zeros(192, np.float32),
        "size": np.array([3, 8, 8]),
    }
    model = after(FOLD_CONSTANTS, make(nodes, tensors))
    assert kinds(model) == ["CumSum", "Sub", "ScatterElements", "Reshape", "Mul"]
    int8 = [node("DequantizeLinear", "q scale", "k"), node("Mul", "x k", "y")]
    kept(
        FOLD_CONSTANTS,
        make(
            int8, {"q": np.ones((3, 1, 1), np.int8), "scale": np.array(0.5, np.float32)}
        ),
    )


def test_random_numbers_are_drawn_at_every_run() -> None:
    nodes = [
        *(
            node("RandomNormal", "", "r", shape=[3, 1, 1]),
            node("RandomNormal", "", "s", shape=[3, 1, 1]),
        ),
        *(node("Add", "r s", "t"), node("Add", "x t", "y")),
    ]
    for item in nodes[:2]:
        del item.input[:]
    kept(FOLD_CONSTANTS, make(nodes, {}))
    kept(COMMON_SUBEXPRESSIONS, make(nodes, {}))


def test_constants_of_the_interface_stay() -> None:
    nodes = [node("Neg", "k", "l"), node("Add", "x l", "y")]
    kept(FOLD_CONSTANTS, make(nodes, {"k": normal(3, 1, 1)}, outputs=("y", "l")))


def test_the_same_computation_is_done_once() -> None:
    nodes = [
        *(
            node("Relu", "x", "a"),
            node("Relu", "x", "b"),
            node("Add", "a k", "c"),
            node("Add", "b m", "d"),
        ),
        *(node("Add", "a n", "e"), node("Mul", "c d", "f"), node("Mul", "f e", "y")),
    ]
    tensors = {"k": normal(3, 1, 1), "m": normal(3, 1, 1), "n": normal(3, 1, 1, seed=1)}
    model = after(COMMON_SUBEXPRESSIONS, make(nodes, tensors))
    assert kinds(model) == ["Relu", "Add", "Add", "Mul", "Mul"]
    assert list(model.graph.node[3].input) == ["c", "c"]


def test_attributes_tell_computations_apart() -> None:
    nodes = [
        node("LeakyRelu", "x", "a", alpha=0.1),
        node("LeakyRelu", "x", "b", alpha=0.2),
        node("Add", "a b", "y"),
    ]
    kept(COMMON_SUBEXPRESSIONS, make(nodes, {}))


def test_two_outputs_of_the_graph_may_be_the_same() -> None:
    nodes = [
        node("Relu", "x", "y"),
        node("Relu", "x", "z"),
        node("Relu", "x", "a"),
        node("Neg", "a", "w"),
    ]
    model = after(COMMON_SUBEXPRESSIONS, make(nodes, {}, outputs=("y", "z", "w")))
    assert [list(item.input) for item in model.graph.node] == [["x"], ["x"], ["y"]]


def test_identities() -> None:
    nodes = [
        *(
            node("Identity", "x", "a"),
            node("Identity", "a", "b"),
            node("Dropout", "b ratio", "c"),
            node("Relu", "c", "d"),
        ),
        *(
            node("Transpose", "d", "e", perm=[0, 1, 2, 3]),
            node("Pad", "e pads", "f"),
            node("Concat", "f", "g", axis=1),
        ),
        *(node("Add", "g a", "h"), node("Identity", "h", "y")),
    ]
    tensors = {"ratio": np.array(0.5, np.float32), "pads": np.zeros(8, np.int64)}
    model = after(DROP_IDENTITIES, make(nodes, tensors))
    assert kinds(model) == [
        "Relu",
        "Add",
        "Identity",
    ]  # the last one gives the graph output its name
    assert list(model.graph.node[1].input) == ["d", "x"]


def test_what_looks_like_an_identity() -> None:
    nodes = [
        *(
            node("Transpose", "x", "a"),
            node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
            node("Pad", "b pads", "c"),
        ),
        *(node("Dropout", "c - training", "d e"), node("Relu", "d", "y")),
    ]
    tensors = {"pads": np.array([0, 0, 0, 1, 0, 0, 0, 0]), "training": np.array(False)}
    kept(DROP_IDENTITIES, make(nodes, tensors))


def test_unused_parts() -> None:
    nodes = [
        node("Relu", "x", "y"),
        node("Neg", "x", "a"),
        node("Add", "a k", "b"),
        node("Mul", "x l", "z"),
    ]
    model = make(
        nodes,
        {"k": normal(3, 1, 1), "l": normal(3, 1, 1), "m": normal(5)},
        outputs=("y", "z"),
    )
    model = after(DROP_UNUSED, onnx.shape_inference.infer_shapes(model))
    assert (kinds(model), list(shapes(model)), len(model.graph.value_info)) == (
        ["Relu", "Mul"],
        ["l"],
        0,
    )


def test_what_a_subgraph_reads_is_used() -> None:
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [node("Add", "a k", "p")], "then", [], [value("p", 1, None)]
    )
    other = helper.make_graph(
        [node("Identity", "a", "q")], "else", [], [value("q", 1, None)]
    )
    nodes = [
        *(
            node("Relu", "x", "b"),
            node("Identity", "b", "a"),
            node("Relu", "x", "c"),
            node("Neg", "c", "d"),
        ),
        *(
            node("If", "yes", "e", then_branch=inner, else_branch=other),
            node("Add", "e d", "y"),
        ),
    ]
    model = make(nodes, {"k": normal(3, 1, 1), "yes": np.array(True)})
    kept(DROP_UNUSED, model)
    kept(DROP_IDENTITIES, model)
    assert kinds(after(COMMON_SUBEXPRESSIONS, model)) == [
        "Relu",
        "Identity",
        "Neg",
        "If",
        "Add",
    ]
