"""`pack_onnx` of models with strings, sequences, maps, optional values, random numbers, or that do not run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.checks import comparing
from sparsify_fx.onnx_export.checks.verify import compare
from sparsify_fx.passes.onnx_graph import optimize
from tests.onnx_export.arrays import random_tensor, run, save

value, node = helper.make_tensor_value_info, helper.make_node
FLOAT, STRING, INT = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64
X, Y = value("x", FLOAT, ["n", 64]), value("y", FLOAT, ["n", 64])
WEIGHT = random_tensor((64, 64), 0.1, 0, 1)


def with_matmul(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[ValueInfoProto] = (),
    outputs: Sequence[ValueInfoProto] = (),
    **constants: Any,
) -> onnx.ModelProto:
    """y = x @ w, and other nodes, inputs and outputs beside it."""
    tensors = [
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in ({"w": WEIGHT} | constants).items()
    ]
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"]), *nodes],
        "g",
        [X, *inputs],
        [Y, *outputs],
        tensors,
    )
    opsets = [
        helper.make_opsetid("", 18),
        helper.make_opsetid("ai.onnx.ml", 3),
        helper.make_opsetid("other", 1),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def of_type(name: str, kind: onnx.TypeProto) -> ValueInfoProto:
    return helper.make_value_info(name, kind)


NUMBERS = helper.make_tensor_type_proto(FLOAT, None)
OPTIONAL = helper.make_optional_type_proto(
    helper.make_tensor_type_proto(FLOAT, ["n", 64])
)
MAP = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
CLASSES = [f"class {place}" for place in range(64)]

ODD = {
    "string constant": with_matmul(
        [node("Identity", ["names"], ["t"])],
        [],
        [value("t", STRING, [2])],
        names=np.array(["a", "b"], object),
    ),
    "string input": with_matmul(
        [node("Identity", ["s"], ["t"])],
        [value("s", STRING, ["k"])],
        [value("t", STRING, ["k"])],
    ),
    "sequence output": with_matmul(
        [node("SplitToSequence", ["y"], ["q"], axis=1)],
        [],
        [helper.make_tensor_sequence_value_info("q", FLOAT, None)],
    ),
    "sequence input": with_matmul(
        [node("ConcatFromSequence", ["q"], ["c"], axis=0)],
        [helper.make_tensor_sequence_value_info("q", FLOAT, ["n", 3])],
        [value("c", FLOAT, None)],
    ),
    "optional input and output": with_matmul(
        [node("Identity", ["o"], ["p"])],
        [of_type("o", OPTIONAL)],
        [of_type("p", OPTIONAL)],
    ),
    "classifier": with_matmul(
        [
            node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
            node(
                "LabelEncoder",
                ["best"],
                ["label"],
                domain="ai.onnx.ml",
                keys_int64s=range(64),
                values_strings=CLASSES,
            ),
            node(
                "ZipMap",
                ["y"],
                ["scores"],
                domain="ai.onnx.ml",
                classlabels_strings=CLASSES,
            ),
        ],
        [],
        [
            value("label", STRING, ["n"]),
            of_type("scores", helper.make_sequence_type_proto(MAP)),
        ],
    ),
    "map input": with_matmul(
        [
            node(
                "DictVectorizer",
                ["m"],
                ["v"],
                domain="ai.onnx.ml",
                string_vocabulary=["one", "two"],
            )
        ],
        [of_type("m", MAP)],
        [value("v", FLOAT, None)],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_values_of_every_type(tmp_path: Path, name: str) -> None:
    source = save(ODD[name], tmp_path / "a.onnx")
    for target in ("onnx", "sparse-ort"):
        report = pack_onnx(source, tmp_path / "b.onnx", encoding="gap", target=target)
        assert report.max_abs_difference is not None
        assert report.max_abs_difference < 1e-5
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert optimize(ODD[name])[1]


@pytest.mark.sweep
@pytest.mark.slow
def test_speed_of_a_model_with_values_of_other_types(tmp_path: Path) -> None:
    source = save(ODD["classifier"], tmp_path / "a.onnx")
    assert inspect_file(source, measure=True, axes={"n": 3}).speed is not None
    speed = pack_onnx(
        save(ODD["string input"], source), tmp_path / "b.onnx", measure=True
    ).speed
    assert speed is not None


def test_compare_tells_texts_sequences_maps_and_none_apart() -> None:
    one = np.ones(2, np.float32)
    equal: list[Any] = [
        np.array(["a", "b"], object),
        [one, one],
        [{"a": 1.0, "b": 2.0}],
        None,
        {1: "a"},
        np.zeros((0, 2)),
    ]
    assert compare(equal, equal, list("uvwxyz"), 0) == (0, 0)
    assert compare([[one, {"a": one}]], [[one, {"a": one * 1.5}]], ["y"], 1) == (
        0.5,
        0.5,
    )
    for expected, got, words in (
        (
            np.array(["a", "b"], object),
            np.array(["a", "c"], object),
            "1 of 2 texts differ",
        ),
        ([one], [one, one], "it has 2 entries, expected 1"),
        ({"a": 1.0}, {"b": 1.0}, "the keys differ: 'b', expected 'a'"),
        (None, one, "it is a tensor, expected none"),
        ([one], one, "it is a tensor, expected a sequence"),
        (one, {"a": 1.0}, "it is a map, expected a tensor"),
        (one, np.array(["a", "b"], object), r"it is object \[2\], expected float32"),
        (np.float32([1, np.nan]), one, "it has NaN or Inf in other places"),
    ):
        with pytest.raises(
            ExportError,
            match=f"output 'y' of onnxruntime is unlike that of the original: {words}",
        ):
            compare([expected], [got], ["y"], 1e-4, "the original")


def drawing(
    kind: str, **attributes: Any
) -> Callable[[list[str]], list[onnx.NodeProto]]:
    """The nodes that add random numbers to y."""
    return lambda inputs: [
        node(kind, inputs, ["r"], **attributes),
        node("Add", ["y", "r"], ["z"]),
    ]


def branch(name: str) -> onnx.GraphProto:
    """A graph that adds random numbers to y, which it takes from outside."""
    return helper.make_graph(
        drawing("RandomNormalLike")(["y"]), name, [], [value("z", FLOAT, None)]
    )


RANDOM = {
    "RandomNormalLike": drawing("RandomNormalLike")(["y"]),
    "RandomUniform": drawing("RandomUniform", shape=[1])([]),
    "Bernoulli": [node("Sigmoid", ["y"], ["p"]), *drawing("Bernoulli", dtype=FLOAT)(["p"])],
    "Multinomial": [
        *(node("Multinomial", ["y"], ["i"], sample_size=64, dtype=INT), node("Cast", ["i"], ["z"], to=FLOAT)),
    ],
    "Dropout": [node("Dropout", ["y", "half", "yes"], ["z"])],
    "in a branch": [node("If", ["yes"], ["z"], then_branch=branch("then"), else_branch=branch("else"))],
}  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_random_outputs_are_not_compared_and_the_others_are(
    tmp_path: Path, name: str
) -> None:
    constants = {"half": np.float32(0.5), "yes": np.array(True)}
    model = with_matmul(RANDOM[name], [], [value("z", FLOAT, None)], **constants)
    for values in ("fp32", "fp16"):
        report = pack_onnx(
            save(model, tmp_path / "a.onnx"),
            tmp_path / "b.onnx",
            values=values,
            encoding="gap",
        )
        assert report.max_rel_difference is not None
        assert report.max_rel_difference < 1e-2
        assert (
            "not compared where the original differs from itself from run to run: 'z'"
            in report.notes[0]
        )
    del model.graph.output[0]
    report = pack_onnx(
        save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding="gap"
    )
    assert report.max_abs_difference is None
    assert "outputs were not compared" in report.notes[0]


def test_random_numbers_in_a_function(tmp_path: Path) -> None:
    model = with_matmul(
        [node("Noisy", ["y"], ["z"], domain="other")], [], [value("z", FLOAT, None)]
    )
    body = [node("RandomNormalLike", ["a"], ["r"]), node("Add", ["a", "r"], ["b"])]
    model.functions.append(
        helper.make_function(
            "other", "Noisy", ["a"], ["b"], body, model.opset_import[:1]
        )
    )
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (report.max_abs_difference, "'z'" in report.notes[0]) == (0, True)


def test_seeded_numbers_are_compared(tmp_path: Path) -> None:
    model = with_matmul(
        drawing("RandomNormalLike", seed=3.0)(["y"]), [], [value("z", FLOAT, None)]
    )
    report = pack_onnx(save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert report.max_abs_difference == 0
    assert not any("not compared" in note for note in report.notes)
    still = with_matmul(
        [node("Dropout", ["y", "half", ""], ["z"])],
        [],
        [value("z", FLOAT, None)],
        half=np.float32(0.5),
    )
    assert (
        pack_onnx(
            save(still, tmp_path / "a.onnx"), tmp_path / "b.onnx"
        ).max_abs_difference
        == 0
    )


def test_a_model_that_differs_from_itself_unknown_why_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an operator of another library may; the list of random ones does not know it."""
    monkeypatch.setattr(comparing, "random_nodes", lambda model: [])
    model = with_matmul(
        drawing("RandomNormalLike")(["y"]), [], [value("z", FLOAT, None)]
    )
    report = pack_onnx(
        save(model, tmp_path / "a.onnx"), tmp_path / "b.onnx", encoding="gap"
    )
    assert report.max_abs_difference == 0
    assert "differs from itself from run to run: 'z'" in report.notes[0]


def test_a_written_file_that_differs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(ODD["classifier"], tmp_path / "a.onnx")
    honest = comparing.Runtime.run_feed

    def lying(runtime: Any, feed: Any) -> list[Any]:
        found = honest(runtime, feed)
        lies = "a.onnx" not in str(runtime.path)
        return [found[0], np.array(["other"], object), *found[2:]] if lies else found

    def remember(runtime: Any, path: Path, library: str | None = None) -> None:
        start(runtime, path, library)
        runtime.path = path

    start = comparing.Runtime.__init__
    monkeypatch.setattr(comparing.Runtime, "__init__", remember)
    monkeypatch.setattr(comparing.Runtime, "run_feed", lying)
    with pytest.raises(
        ExportError,
        match="output 'label' of onnxruntime is unlike that of the original file: 1 of 1 texts",
    ):
        pack_onnx(source, tmp_path / "b.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def out_of_range() -> onnx.ModelProto:
    """Indices that are the sum of an input and 1000, in a table of three rows."""
    nodes = [node("Add", ["i", "far"], ["j"]), node("Gather", ["table", "j"], ["z"])]
    constants = {"far": np.int64(1000), "table": np.ones((3, 2), np.float32)}
    return with_matmul(
        nodes, [value("i", INT, [4])], [value("z", FLOAT, None)], **constants
    )


def sparse_input() -> onnx.ModelProto:
    other = ValueInfoProto(name="s")
    other.type.sparse_tensor_type.elem_type = FLOAT
    return with_matmul([], [other])


NOT_RUN = {
    "custom operator": (
        with_matmul([node("Magic", ["y"], ["z"], domain="other")], [], [value("z", FLOAT, None)]),
        "the original does not run here",
    ),
    "no kernel for this type": (
        with_matmul([node("Cast", ["x"], ["c"], to=TensorProto.BFLOAT16), node("Sin", ["c"], ["z"])], [],
                    [value("z", TensorProto.BFLOAT16, None)]),
        "the original does not run here",
    ),
    "values out of range": (out_of_range(), r"does not run on any of \d+ made-up inputs .*; give inputs="),
    "no made-up value": (sparse_input(), "does not run here|cannot be made up"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_RUN)
def test_models_that_do_not_run_are_packed_and_the_reason_is_told(
    tmp_path: Path, name: str
) -> None:
    model, words = NOT_RUN[name]
    source = save(model, tmp_path / "a.onnx")
    for target in ("onnx", "sparse-ort"):
        report = pack_onnx(
            source, tmp_path / "b.onnx", encoding="gap", target=target, measure=True
        )
        assert (report.max_abs_difference, report.speed) == (None, None)
        (note,) = [note for note in report.notes if "outputs were not compared" in note]
        assert re.search(words, note)
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    weights = [
        onnx.load(str(tmp_path / file)).graph.initializer
        for file in ("a.onnx", "c.onnx")
    ]
    before, after = (
        {each.name: numpy_helper.to_array(each).tobytes() for each in group}
        for group in weights
    )
    assert before == after


def test_inputs_that_are_given_run_what_made_up_ones_do_not(tmp_path: Path) -> None:
    source = save(out_of_range(), tmp_path / "a.onnx")
    given = {"i": np.array([-1000, -999, -998, -1000])}
    report = pack_onnx(source, tmp_path / "b.onnx", inputs=given)
    assert report.max_abs_difference == 0
    feed = {"x": np.ones((2, 64), np.float32), **given}
    assert [a.tobytes() for a in run(source, feed)] == [
        a.tobytes() for a in run(tmp_path / "b.onnx", feed)
    ]
