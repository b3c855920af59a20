"""Made-up inputs: lengths of open axes, values of every type, what a user fixes, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError, InputError, PassError, UnknownNameError
from sparsify_fx.onnx_tools.feeds import feeds
from sparsify_fx.onnx_tools.lengths import computed_length
from sparsify_fx.onnx_tools.signature import Asked, describe, ports_of, settles
from sparsify_fx.onnx_tools.uses import uses_of

value, FLOAT, INT = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64


def model(
    inputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto] = (),
    **constants: Any,
) -> onnx.ModelProto:
    """A graph without outputs, which is enough to make up inputs for it."""
    tensors = [
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in constants.items()
    ]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, [], tensors))


def first(
    inputs: Sequence[onnx.ValueInfoProto], *nodes: onnx.NodeProto, **constants: Any
) -> dict[str, Any]:
    return next(feeds(model(inputs, nodes, **constants)))


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ([-1, 3, -1, -1], (1, 3, 224, 224)),
        (["n", 1, "h", "w"], (1, 1, 224, 224)),
        ([None, None, None, 4], (1, 224, 224, 4)),
        (["n", "c", "h", "w"], (1, 3, 224, 224)),
        ([3, "h", "w"], (3, 224, 224)),
        (["h", "w", 3], (224, 224, 3)),
        ([1, 3, 48, -1], (1, 3, 48, 224)),
        (["n", 3, "t", "h", "w"], (1, 3, 16, 224, 224)),
        (["n", "t", 64], (1, 128, 64)),
        (["n", 12, "t", 64], (1, 12, 128, 64)),
        ([2, None, 128], (2, 1, 128)),
        ([1, None, 128], (1, 128, 128)),
        ([-1], (128,)),
        ([], ()),
    ],
)
def test_lengths_of_open_axes(dims: list[Any], expected: tuple[int, ...]) -> None:
    assert first([value("x", FLOAT, dims)])["x"].shape == expected


def test_axes_of_one_name_have_one_length() -> None:
    feed = first([value("x", FLOAT, ["batch", 64]), value("s", FLOAT, [1, "batch", 8])])
    assert (feed["x"].shape, feed["s"].shape) == ((1, 64), (1, 1, 8))
    texts = [value("ids", INT, ["b", "t"]), value("bias", FLOAT, ["b", 1, "t", "t"])]
    assert first(texts)["bias"].shape == (1, 1, 128, 128)


def test_axes_that_are_formulas_of_others() -> None:
    inputs = [
        *(value("ids", INT, ["b", "new"]), value("past", FLOAT, ["b", 12, "past", 16])),
        *(
            value("mask", INT, ["b", "past + new"]),
            value("twice", FLOAT, ["b", "2*new"]),
        ),
    ]
    shapes = {name: array.shape for name, array in first(inputs).items()}
    assert shapes == {
        "ids": (1, 128),
        "past": (1, 12, 128, 16),
        "mask": (1, 256),
        "twice": (1, 256),
    }
    made = next(feeds(model(inputs), Asked(axes={"new": 1, "past": 7})))
    assert made["mask"].shape == (1, 8)
    # A name is no formula where its parts are no axes.
    assert first([value("x", FLOAT, ["batch-size", "t"])])["x"].shape == (1, 128)
    assert computed_length("a // 0", {"a": 1}) is None
    assert (
        computed_length("f(a)", {"a": 1})
        is computed_length("", {})
        is computed_length("a b", {})
        is None
    )


def test_a_name_may_be_the_sum_of_the_two_others() -> None:
    """As all tokens are those of the past and the new ones."""
    inputs = [
        value("ids", INT, ["b", "new"]),
        value("past", FLOAT, ["b", 12, "past", 16]),
        value("mask", INT, ["b", "all"]),
    ]
    made = [
        tuple(array.shape for array in feed.values())
        for feed in feeds(model(inputs), Asked(axes={"new": 1}))
    ]
    assert made[0] == ((1, 1), (1, 12, 128, 16), (1, 128))
    assert ((1, 1), (1, 12, 128, 16), (1, 129)) in made[:12]


def test_weights_that_read_an_input_fix_its_lengths() -> None:
    open3 = [value("x", FLOAT, [None, None, None])]
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    assert first(open3, conv, w=np.zeros((8, 80, 3), np.float32))["x"].shape == (
        1,
        80,
        128,
    )
    flipped = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "w"], ["y"]),
    ]
    assert first(open3, *flipped, w=np.zeros((8, 80, 3), np.float32))["x"].shape == (
        1,
        128,
        80,
    )
    matmul = [
        helper.make_node("Cast", ["x"], ["c"], to=FLOAT),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    assert first(open3, *matmul, w=np.zeros((48, 5), np.float32))["x"].shape == (
        1,
        128,
        48,
    )
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    assert first([value("x", FLOAT, None)], gemm, w=np.zeros((5, 48), np.float32))[
        "x"
    ].shape == (1, 48)


def test_a_recurrent_layer_says_which_axis_is_the_batch() -> None:
    inputs = [
        value("x", FLOAT, ["t", "n", None]),
        value("h", FLOAT, [None, "n", None]),
        value("len", INT, ["n"]),
    ]
    node = helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["y"], hidden_size=16)
    feed = first(
        inputs,
        node,
        w=np.zeros((1, 48, 10), np.float32),
        r=np.zeros((1, 48, 16), np.float32),
    )
    assert [feed[name].shape for name in ("x", "h", "len")] == [
        (128, 1, 10),
        (1, 1, 16),
        (1,),
    ]
    assert feed["len"].tolist() == [128]


def test_integers() -> None:
    inputs = [
        *(
            value("ids", INT, ["b", "t"]),
            value("mask", INT, ["b", "t"]),
            value("count", TensorProto.INT32, ["b"]),
        ),
        *(
            value("image", TensorProto.UINT8, ["b", 20, 20, 3]),
            value("flag", TensorProto.BOOL, []),
        ),
    ]
    lookup = helper.make_node("Gather", ["table", "ids"], ["e"])
    made = list(feeds(model(inputs, [lookup], table=np.zeros((7, 2), np.float32))))
    assert set(np.unique(made[0]["ids"])) == set(range(7))
    assert (made[0]["mask"] == 1).all()
    assert made[0]["count"].tolist() == [128]
    assert made[0]["image"].max() > 200
    assert made[0]["flag"] == np.True_
    assert [bool(feed["flag"]) for feed in made[:2]] == [True, False]
    assert set(np.unique(made[2]["mask"])) == {0, 1}


def test_indices_are_found_inside_branches_and_functions() -> None:
    table = numpy_helper.from_array(np.zeros((9, 2), np.float32), "table")
    inner = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["e"])],
        "b",
        [],
        [value("e", FLOAT, None)],
        [table],
    )
    branch = helper.make_node(
        "If", ["yes"], ["y"], then_branch=inner, else_branch=inner
    )
    ids = [value("ids", INT, ["n"]), value("yes", TensorProto.BOOL, [])]
    assert uses_of(model(ids, [branch]))["ids"].below == 9
    called = model(
        ids[:1], [helper.make_node("Look", ["table", "ids"], ["y"], domain="mine")]
    )
    called.graph.initializer.append(table)
    called.opset_import.append(helper.make_opsetid("mine", 1))
    body = [helper.make_node("Gather", ["t", "i"], ["o"])]
    called.functions.append(
        helper.make_function(
            "mine", "Look", ["t", "i"], ["o"], body, called.opset_import[:1]
        )
    )
    assert uses_of(called)["ids"].below == 9
    called.functions[0].node[0].op_type, called.functions[0].node[0].domain = (
        "Look",
        "mine",
    )  # calls itself
    assert uses_of(called)["ids"].below is None


def test_strings_sequences_maps_and_optional_values() -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, ["n", 4])
    scores = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, [])
    )
    inputs = [
        value("s", TensorProto.STRING, ["n", 3]),
        helper.make_tensor_sequence_value_info("q", FLOAT, ["n", 4]),
        helper.make_value_info("o", helper.make_optional_type_proto(tensor)),
        helper.make_value_info("m", scores),
    ]
    with_value, without = (
        feed for _, feed in zip(range(2), feeds(model(inputs)), strict=False)
    )
    assert with_value["s"].dtype == object
    assert {type(word) for word in with_value["s"].flat} == {str}
    assert [array.shape for array in with_value["q"]] == [(1, 4), (1, 4)]
    assert (with_value["o"].shape, without["o"]) == ((1, 4), None)
    assert all(
        isinstance(key, str) and isinstance(number, float)
        for key, number in with_value["m"].items()
    )


def test_tries_differ_and_keep_their_order() -> None:
    image = model([value("x", FLOAT, ["n", 3, "h", "w"])])
    sizes = [feed["x"].shape[2] for feed in feeds(image)]
    assert sizes[:4] == [224, 32, 64, 640]
    assert len({feed["x"].shape for feed in feeds(image)}) == len(sizes)
    assert [feed["x"].tobytes()[:8] for feed in feeds(image)] == [
        feed["x"].tobytes()[:8] for feed in feeds(image)
    ]
    assert [feed["x"].shape for feed in feeds(model([value("x", FLOAT, [0, 2])]))][
        :2
    ] == [(1, 2), (0, 2)]


def test_what_is_asked_for_binds_axes_of_the_same_name() -> None:
    pair = model([value("a", FLOAT, ["n", "t", 8]), value("b", FLOAT, ["t", "n"])])
    for asked in (
        Asked(axes={"n": 3, "t": 5}),
        Asked(shapes={"a": (3, 5, 8)}),
        Asked(inputs={"a": np.zeros((3, 5, 8), np.float32)}),
    ):
        feed = next(feeds(pair, asked))
        assert (feed["a"].shape, feed["b"].shape) == ((3, 5, 8), (5, 3))
        assert settles(ports_of(pair), asked)
        assert len(list(feeds(pair, asked))) == 1
    assert not settles(ports_of(pair), Asked(axes={"n": 3}))


X = (value("x", FLOAT, ["n", 3, None]), value("s", TensorProto.STRING, ["n"]))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(shapes={"y": (1,)}), "unknown input 'y'.* Known: s, x"),
        (Asked(inputs={"y": np.zeros(1)}), "unknown input 'y'.* Known: s, x"),
        (Asked(axes={"m": 1}), "unknown axis 'm'.* Known: n"),
        (
            Asked(shapes={"x": (1, 4, 8)}),
            r"input 'x' has the shape \[n, 3, \?\] in the file, which \[1, 4, 8\] does not",
        ),
        (Asked(shapes={"x": (1, 3)}), r"which \[1, 3\] does not fit"),
        (
            Asked(shapes={"x": (0, 3, 8)}),
            "axis 0: expected a length of 1 or more, got 0",
        ),
        (Asked(axes={"n": -1}), "axis 'n': expected a length of 1 or more, got -1"),
        (Asked(axes={"n": 1.5}), "got 1.5"),  # type: ignore[dict-item]
        (
            Asked(axes={"n": 2}, shapes={"x": (1, 3, 8)}),
            "axis 'n' is given as 2, but the shape given for input 'x'",
        ),
        (
            Asked(inputs={"x": np.zeros((1, 3, 8))}),
            "input 'x' holds float32 in the file, not float64",
        ),
        (Asked(inputs={"x": np.zeros((1, 2, 8), np.float32)}), "does not fit"),
        (
            Asked(inputs={"s": np.zeros(1)}),
            "input 's' holds strings in the file, not float64",
        ),
        (Asked(inputs={"s": None}), "input 's' is no optional one"),
        (
            Asked(inputs={"x": [np.zeros(1)]}),
            "input 'x' is a tensor; expected a numpy array, got list",
        ),
    ],
)
def test_what_contradicts_the_file_is_refused_in_words(
    asked: Asked, words: str
) -> None:
    with pytest.raises((InputError, UnknownNameError), match=words):
        feeds(model(X), asked)


def test_what_cannot_be_made_up_is_refused_in_words() -> None:
    for dims, kind, words in (
        ([2**40], FLOAT, "too large to be made up"),
        (["n"], 0, "unknown type"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            next(feeds(model([value("x", kind, dims)])))
        assert isinstance(caught.value, ExportError)
        assert isinstance(caught.value, PassError)
    sparse = onnx.ValueInfoProto(name="x")
    sparse.type.sparse_tensor_type.elem_type = FLOAT
    with pytest.raises(
        InputError, match="input 'x' is a sparse tensor, which cannot be made up"
    ):
        feeds(model([sparse]))
    assert describe(None) == "of any rank"
