"""Channels that no pass may take: shared, half precision, read by what the passes do not know."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS, UNREAD_CHANNELS
from sparsify_fx.passes.onnx_graph.constant_branches import CONSTANT_BRANCHES
from sparsify_fx.passes.onnx_graph.drop_unused import DROP_UNUSED
from tests.passes.onnx_graph.channels import (
    CONV,
    PADDED,
    X,
    removed,
    two_convs,
    untouched,
    without,
)
from tests.passes.onnx_graph.common import make, node, normal, run, shapes


def test_a_weight_that_two_layers_share_is_sliced_alike_or_not_at_all() -> None:
    shared = without(normal(4, 4, 3, 3), rows=[1], columns=[1])
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("Conv", "h s", "i", **PADDED),
            node("Relu", "i", "j"),
        ),
        *(node("Conv", "j s", "k", **PADDED), node("Conv", "k b", "y", **PADDED)),
    ]
    after = removed(
        make(nodes, {"a": normal(4, 3, 3, 3), "s": shared, "b": normal(2, 4, 3, 3)})
    )
    assert shapes(after) == {"a": (3, 3, 3, 3), "s": (3, 3, 3, 3), "b": (2, 3, 3, 3)}
    alive = without(
        normal(4, 4, 3, 3), rows=[1]
    )  # its first use reads channel 1 of a, so its second one must as well
    untouched(
        make(nodes, {"a": normal(4, 3, 3, 3), "s": alive, "b": normal(2, 4, 3, 3)})
    )


def test_a_weight_that_something_else_reads_too_stays() -> None:
    nodes = [
        node("Gemm", "x a", "h"),
        node("Gemm", "h b", "i"),
        node("Gather", "b one", "j"),
        node("Add", "i j", "y"),
    ]
    tensors = {
        "a": normal(4, 6),
        "b": without(normal(6, 3), rows=[2]),
        "one": np.array(2),
    }
    untouched(make(nodes, tensors, x=("N", 4)))


def test_a_shared_bias_is_copied_when_one_reader_changes_it() -> None:
    nodes = [
        *(node("Conv", "x a bias", "h", **CONV), node("Conv", "h b bias", "i", **CONV)),
        node("Conv", "i c bias", "y", **CONV),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": normal(4, 4, 3, 3),
        "c": normal(4, 4, 3, 3, seed=1),
    }
    after = removed(make(nodes, {**tensors, "bias": [1, 2, 3, 4]}))
    assert shapes(after)["a"] == (3, 3, 3, 3)
    assert shapes(after)["c"] == (4, 4, 3, 3)


def test_a_channel_of_a_graph_output_stays() -> None:
    nodes = [
        node("Conv", "x a", "h", **PADDED),
        node("Relu", "h", "i"),
        node("Conv", "i b", "y", **PADDED),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": without(normal(2, 4, 3, 3), columns=[2]),
    }
    for outputs in (("y", "i"), ("h", "y")):
        untouched(make(nodes, tensors, outputs=outputs))
    assert shapes(removed(make(nodes, tensors)))["a"] == (2, 3, 3, 3)


def test_a_layer_that_is_dead_throughout_keeps_one_channel() -> None:
    nodes = [
        node("Conv", "x a bias", "h", **PADDED),
        node("Relu", "h", "i"),
        node("Conv", "i b", "y", **PADDED),
    ]
    tensors = {
        "a": np.zeros((4, 3, 3, 3), np.float32),
        "bias": [0, -1, 0, -2],
        "b": normal(2, 4, 3, 3),
    }
    after = removed(make(nodes, tensors))
    assert shapes(after) == {"a": (1, 3, 3, 3), "bias": (1,), "b": (2, 1, 3, 3)}


def test_subgraphs_and_unknown_operators_keep_what_they_read() -> None:
    value = helper.make_tensor_value_info
    branches = {
        "then_branch": helper.make_graph(
            [node("Relu", "h", "p")], "then", [], [value("p", 1, None)]
        ),
        "else_branch": helper.make_graph(
            [node("Neg", "h", "q")], "else", [], [value("q", 1, None)]
        ),
    }
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("If", "yes", "i", **branches),
            node("Conv", "i b", "j", **PADDED),
        ),
        *(node("Conv", "h c", "k", **PADDED), node("Add", "j k", "y")),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": normal(2, 4, 3, 3),
        "c": normal(2, 4, 3, 3),
        "yes": np.array(True),
    }
    model = make(nodes, tensors)
    untouched(model, DEAD_CHANNELS, UNREAD_CHANNELS, CONSTANT_BRANCHES, DROP_UNUSED)
    custom = make(
        [nodes[0], node("Relu", "h", "i"), node("Conv", "i b", "y", **PADDED)],
        {"a": tensors["a"], "b": tensors["b"]},
    )
    custom.graph.node[1].domain = "com.example"
    custom.opset_import.append(helper.make_opsetid("com.example", 1))
    untouched(custom)


def test_weights_that_a_caller_may_override_are_no_constants() -> None:
    nodes = [node("Conv", "x a", "h", **PADDED), node("Conv", "h b", "y", **PADDED)]
    model = make(
        nodes,
        {
            "a": without(normal(4, 3, 3, 3), rows=[1]),
            "b": without(normal(2, 4, 3, 3), columns=[1]),
        },
    )
    for name, shape in (("a", [4, 3, 3, 3]), ("b", [2, 4, 3, 3])):
        model.graph.input.append(helper.make_tensor_value_info(name, 1, shape))
    untouched(model)


def test_recorded_shapes_follow() -> None:
    model = onnx.shape_inference.infer_shapes(two_convs([0.1, 2.0, -3.0, 0.2], CONV))
    assert {item.name for item in model.graph.value_info} == {"h", "z"}
    after = removed(model)
    sizes = [
        [dim.dim_value or dim.dim_param for dim in v.type.tensor_type.shape.dim]
        for v in after.graph.value_info
    ]
    assert sizes == [["N", 2, 6, 6]] * 2


def test_half_precision_and_double_are_left_alone() -> None:
    nodes = [
        node("Cast", "x", "w", to=11),
        node("Conv", "w a", "h", **CONV),
        node("Conv", "h b", "i", **CONV),
    ]
    nodes.append(node("Cast", "i", "y", to=1))
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    untouched(
        make(nodes, {name: value.astype(np.float64) for name, value in tensors.items()})
    )


def test_negative_zeros_count_as_zeros() -> None:
    weight = without(normal(4, 3, 3, 3), rows=[1])
    weight[1] = -0.0
    nodes = [node("Conv", "x a", "h", **PADDED), node("Conv", "h b", "y", **PADDED)]
    assert shapes(removed(make(nodes, {"a": weight, "b": normal(2, 4, 3, 3)})))[
        "a"
    ] == (3, 3, 3, 3)


def test_a_value_without_channels_to_follow() -> None:
    """A layer on a graph input, and one on the result of an operator that is not understood."""
    nodes = [
        node("Softmax", "x", "h", axis=1),
        node("Conv", "h a", "i", **PADDED),
        node("Conv", "i b", "y", **PADDED),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1], columns=[0]),
        "b": normal(2, 4, 3, 3),
    }
    after = removed(make(nodes, tensors))
    assert shapes(after)["a"] == (3, 3, 3, 3)
    assert run(after, X)[0].shape == (2, 2, 8, 8)
