"""The proof of the passes: bounds for each output, outputs that prove nothing, passes that are left out one by one."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import InputError, PassWarning, UnknownNameError
from sparsify_fx.onnx_tools.feeds import feeds
from sparsify_fx.passes.onnx_graph import (
    PASSES,
    GraphPass,
    optimize,
    passes_table,
    proof,
)
from sparsify_fx.passes.onnx_graph.proof import Reference, nudged
from tests.passes.onnx_graph.common import distance, kinds, make, node, normal

PADS = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
FOLDED = ["Conv", "Sin", "Relu"]


def steep(scale: float = 3e3, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A scale that folds into the convolution before it, and a sine that makes much of the last bit of its result."""
    nodes = [
        node("Conv", "x a", "h", **PADS),
        node("Mul", "h s", "k"),
        node("Sin", "k", "z"),
        node("Relu", "z", "y"),
    ]
    return make(nodes, {"a": normal(4, 3, 3, 3), "s": scale}, outputs=outputs)


def renaming(name: str, old: str, new: str) -> GraphPass:
    """A pass that makes another operator of every one of a kind."""

    def change(model: onnx.ModelProto) -> bool:
        found = [item for item in model.graph.node if item.op_type == old]
        for item in found:
            item.op_type = new
        return bool(found)

    return GraphPass(name, change, exact=True)


def test_onnxruntimes_own_optimizations_are_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same fold, made by onnxruntime itself, differs as much; weights are held still here."""
    monkeypatch.setattr(proof, "nudged", lambda model, **given: model)
    model = steep()
    reference = Reference(model, feeds(model))
    assert 1e-5 < reference.noise[0] < 1e-2
    smaller, rows = optimize(model)
    assert kinds(smaller) == FOLDED
    assert not any(row.note for row in rows)
    monkeypatch.setattr(Reference, "_run_at", lambda reference, level: None)
    with pytest.warns(
        PassWarning,
        match="fold-batch-norm: left out .* changed output 'y' by .*; expected 1e-05",
    ):
        same, _ = optimize(model)
    assert same is model


def test_the_last_places_of_constant_nodes_count_too() -> None:
    model = steep()
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(
            0, helper.make_node("Constant", [], [tensor.name], value=tensor)
        )
    del model.graph.initializer[:]
    assert max(Reference(model, feeds(model)).distances(nudged(model))) > 1e-5
    assert kinds(optimize(model)[0]) == FOLDED


def test_constants_that_are_sizes_keep_still() -> None:
    """The last place of a scale of 2 makes images of one pixel less, which fit nothing any more."""
    model = steep()
    for tensor in (
        numpy_helper.from_array(np.float32([1, 1, 2, 2]), "scales"),
        numpy_helper.from_array(np.float32([]), "roi"),
    ):
        model.graph.initializer.append(tensor)
    model.graph.node.extend(
        [node("Resize", "x roi scales", "large"), node("Add", "large large", "y2")]
    )
    model.graph.output.append(
        helper.make_tensor_value_info("y2", TensorProto.FLOAT, None)
    )
    reference = Reference(model, feeds(model))
    assert 1e-5 < reference.noise[0] < 1
    assert reference.noise[1] < 1e-5
    assert kinds(optimize(model)[0])[:3] == FOLDED


def test_an_output_that_rounding_decides_proves_nothing_and_the_others_do() -> None:
    """The chaotic output is told; what the other one shows stands, for right passes and a wrong one."""
    model = steep(1e7)
    nodes = [
        *model.graph.node,
        node("Conv", "x c", "g", **PADS),
        node("Mul", "g s", "i"),
        node("Abs", "i", "calm"),
    ]
    both = make(
        nodes,
        {"a": normal(4, 3, 3, 3), "c": normal(4, 3, 3, 3, seed=1), "s": 1e7},
        outputs=("y", "calm"),
    )
    with pytest.warns(
        PassWarning,
        match=r"changed the outputs 'y', but no more than rounding .* the others agree",
    ):
        smaller, rows = optimize(both)
    assert kinds(smaller).count("Mul") == 0
    assert not any(row.note for row in rows)
    with pytest.warns(PassWarning) as caught:
        again, rows = optimize(both, (*PASSES, renaming("careless", "Abs", "Neg")))
    assert any(
        "careless: left out" in str(each.message) and "'calm'" in str(each.message)
        for each in caught
    )
    assert again == smaller
    assert [row.name for row in rows if row.note] == ["careless"]


def test_when_nothing_is_proven_exact_passes_stay() -> None:
    """A fold changes a chaotic output and is left out; a dropped identity changes nothing, which is a proof."""
    model = steep(1e7)
    model.graph.node[-1].input[0] = "w"
    model.graph.node.insert(3, helper.make_node("Identity", ["z"], ["w"]))
    with pytest.warns(PassWarning, match="fold-batch-norm: left out"):
        smaller, rows = optimize(model)
    assert kinds(smaller) == ["Conv", "Mul", "Sin", "Relu"]
    assert {row.name for row in rows if row.changes} == {"drop-identities"}
    table = passes_table(rows)
    assert table is not None
    assert "fold-batch-norm left out" in str(table.caption)


def test_several_passes_at_fault_are_all_left_out() -> None:
    nodes = [
        node("Conv", "x a", "h", **PADS),
        node("Identity", "h", "i"),
        node("Relu", "i", "j"),
        node("Abs", "j", "y"),
    ]
    model = make(nodes, {"a": normal(4, 3, 3, 3)})
    faults = (
        renaming("first", "Relu", "Sigmoid"),
        renaming("second", "Abs", "Neg"),
        renaming("third", "Conv", "None"),
    )
    with pytest.warns(PassWarning) as caught:
        smaller, rows = optimize(model, (*faults, *PASSES))
    assert sorted({str(each.message).split(":")[0] for each in caught}) == [
        "first",
        "second",
        "third",
    ]
    assert kinds(smaller) == ["Conv", "Relu", "Abs"]
    assert {row.name for row in rows if row.note} == {"first", "second", "third"}
    assert distance(model, smaller, normal(2, 3, 8, 8)) == 0


def with_outputs(
    *more: onnx.ValueInfoProto, nodes: list[onnx.NodeProto]
) -> onnx.ModelProto:
    """Convolution, scale and activation, and other nodes beside them."""
    model = steep(2.0)
    model.graph.node.extend(nodes)
    model.graph.output.extend(more)
    return model


def test_random_outputs_prove_nothing_and_the_others_do() -> None:
    noisy = with_outputs(
        helper.make_tensor_value_info("r", TensorProto.FLOAT, None),
        nodes=[node("RandomNormalLike", "y", "r")],
    )
    with pytest.warns(
        PassWarning,
        match=r"changed the outputs 'r', but no more than rounding or chance",
    ):
        smaller, _ = optimize(noisy)
    assert kinds(smaller) == [*FOLDED, "RandomNormalLike"]
    with pytest.warns(PassWarning) as caught:
        optimize(noisy, (*PASSES, renaming("careless", "Relu", "Abs")))
    assert [str(each.message).split(" ")[0] for each in caught] == ["careless:", "the"]


def test_texts_sequences_and_whole_numbers_are_compared() -> None:
    words = numpy_helper.from_array(np.array(["a", "b"], object), "words")
    odd = with_outputs(
        helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("best", TensorProto.INT64, None),
        helper.make_tensor_value_info("t", TensorProto.STRING, None),
        nodes=[
            node("SplitToSequence", "y", "q", axis=1),
            node("ArgMax", "y", "best"),
            node("Identity", "words", "t"),
        ],
    )
    odd.graph.initializer.append(words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smaller, _ = optimize(odd)
    assert kinds(smaller)[:3] == FOLDED
    with pytest.warns(
        PassWarning, match="careless: left out .* changed output 'best' by "
    ):
        optimize(odd, (*PASSES, renaming("careless", "ArgMax", "ArgMin")))


def test_inputs_that_are_given_in_part_are_completed_and_checked() -> None:
    model = steep()
    model.graph.input.append(
        helper.make_tensor_value_info("s2", TensorProto.FLOAT, ["N"])
    )
    x = normal(3, 3, 8, 8)
    assert kinds(optimize(model, inputs={"x": x})[0]) == FOLDED
    reference = Reference(model, proof.proof_feeds(model, {"x": x}, 0))
    assert reference.feed["s2"].shape == (3,)
    with pytest.raises(UnknownNameError, match=r"unknown input 'z'.* Known: s2, x"):
        optimize(model, inputs={"z": x})
    with pytest.raises(
        InputError, match="input 'x' holds float32 in the file, not float64"
    ):
        optimize(model, inputs={"x": x.astype(np.float64)})
