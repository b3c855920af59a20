"""Dead and unread channels through convolutions, sums, products and concatenations, one trap a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS, UNREAD_CHANNELS
from sparsify_fx.passes.onnx_graph.constant_branches import CONSTANT_BRANCHES
from sparsify_fx.passes.onnx_graph.drop_unused import DROP_UNUSED
from tests.passes.onnx_graph.channels import (
    CONV,
    PADDED,
    removed,
    two_convs,
    untouched,
    without,
)
from tests.passes.onnx_graph.common import Array, kinds, make, node, normal, shapes


def test_a_constant_moves_into_the_bias_of_its_reader() -> None:
    after = removed(two_convs([0.1, 2.0, -3.0, 0.2], CONV, b_bias=normal(5)))
    assert shapes(after) == {
        "a": (2, 3, 3, 3),
        "a_bias": (2,),
        "b": (5, 2, 3, 3),
        "b_bias": (5,),
    }


def test_a_reader_without_bias_gets_one_when_it_needs_it() -> None:
    after = removed(two_convs([0.1, 2.0, -3.0, 0.2], CONV))
    assert shapes(after)["b.bias"] == (5,)
    after = removed(two_convs([0.1, -2.0, -3.0, 0.2], CONV))  # ReLU makes both zero
    assert shapes(after) == {"a": (2, 3, 3, 3), "a_bias": (2,), "b": (5, 2, 3, 3)}


def test_a_constant_stays_in_front_of_a_padded_convolution() -> None:
    """At the border fewer weights meet it, so no bias can replace it; a zero can go."""
    after = removed(two_convs([0.1, 2.0, -3.0, 0.2], PADDED))
    assert shapes(after) == {"a": (3, 3, 3, 3), "a_bias": (3,), "b": (5, 3, 3, 3)}
    untouched(two_convs([0.1, 2.0, 3.0, 0.2], PADDED))
    untouched(two_convs([0.1, 2.0, 3.0, 0.2], {**CONV, "auto_pad": "SAME_UPPER"}))


def test_activations_that_are_not_zero_at_zero() -> None:
    after = removed(two_convs([0.0, 0.0, 0.0, 0.0], CONV, "Sigmoid"))
    assert shapes(after)["a"] == (2, 3, 3, 3)
    untouched(two_convs([0.0, 0.0, 0.0, 0.0], PADDED, "Sigmoid"))


def test_nothing_dead_nothing_changed() -> None:
    nodes = [
        node("Conv", "x a", "h", **PADDED),
        node("Relu", "h", "z"),
        node("Conv", "z b", "y", **PADDED),
    ]
    untouched(
        make(nodes, {"a": normal(4, 3, 3, 3), "b": normal(5, 4, 3, 3)}),
        DEAD_CHANNELS,
        UNREAD_CHANNELS,
    )


def test_channels_that_nothing_reads_go_and_so_do_those_before_them() -> None:
    a, b, c = (
        normal(4, 3, 3, 3),
        normal(5, 4, 3, 3),
        without(normal(2, 5, 3, 3), columns=[0, 3]),
    )
    b[1:3, 2] = b[4, 2] = (
        0  # channel 2 of a is read by the unread channels 0 and 3 alone
    )
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("Relu", "h", "i"),
            node("Conv", "i b", "j", **PADDED),
        ),
        *(node("Tanh", "j", "k"), node("Conv", "k c", "y", **PADDED)),
    ]
    after = removed(make(nodes, {"a": a, "b": b, "c": c}), UNREAD_CHANNELS)
    assert shapes(after) == {"a": (3, 3, 3, 3), "b": (3, 3, 3, 3), "c": (2, 3, 3, 3)}


def residual(
    left: Array, right: Array, last: Array, bias: Any = (0, 0, 0, 0)
) -> onnx.ModelProto:
    nodes = [
        *(
            node("Conv", "x left bias", "l", **PADDED),
            node("Conv", "x right", "r", **PADDED),
        ),
        *(
            node("Add", "l r", "s"),
            node("Relu", "s", "z"),
            node("Conv", "z last", "y", **PADDED),
        ),
    ]
    return make(nodes, {"left": left, "right": right, "last": last, "bias": bias})


def test_a_sum_keeps_a_channel_that_one_addend_needs() -> None:
    left, right, last = (
        normal(4, 3, 3, 3),
        normal(4, 3, 3, 3, seed=1),
        normal(2, 4, 3, 3),
    )
    untouched(residual(without(left, rows=[1, 2]), without(right, rows=[3]), last))
    after = removed(
        residual(without(left, rows=[1, 2]), without(right, rows=[2, 3]), last)
    )
    assert shapes(after)["left"] == shapes(after)["right"] == (3, 3, 3, 3)
    assert shapes(after)["last"] == (2, 3, 3, 3)


def test_a_sum_of_two_constants_is_a_constant() -> None:
    left, right = (without(normal(4, 3, 3, 3, seed=seed), rows=[2]) for seed in (0, 1))
    untouched(
        residual(left, right, normal(2, 4, 3, 3), bias=[0, 0, 1, 0])
    )  # 1 before a padded convolution
    assert shapes(
        removed(residual(left, right, normal(2, 4, 3, 3), bias=[0, 0, -1, 0]))
    )["left"] == (3, 3, 3, 3)


def test_a_sum_loses_what_nothing_reads_in_all_addends() -> None:
    last = without(normal(2, 4, 3, 3), columns=[0, 3])
    after = removed(
        residual(normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1), last), UNREAD_CHANNELS
    )
    assert shapes(after)["left"] == shapes(after)["right"] == (2, 3, 3, 3)
    assert shapes(after)["bias"] == (2,)


def test_a_residual_branch_without_weights_goes_as_a_whole() -> None:
    model = residual(
        np.zeros((4, 3, 3, 3), np.float32), normal(4, 3, 3, 3), normal(2, 4, 3, 3)
    )
    after = removed(model, CONSTANT_BRANCHES, DROP_UNUSED, tolerance=0)
    assert kinds(after) == ["Conv", "Relu", "Conv"]
    model = residual(
        np.zeros((4, 3, 3, 3), np.float32),
        normal(4, 3, 3, 3),
        normal(2, 4, 3, 3),
        bias=[1, 0, 2, 3],
    )
    after = removed(model, CONSTANT_BRANCHES, DROP_UNUSED)
    assert kinds(after) == ["Conv", "Add", "Relu", "Conv"]
    assert shapes(after)["l_constant"] == (4, 1, 1)


def test_a_gate_keeps_a_constant_branch_that_is_larger_than_its_partner() -> None:
    """A constant map times [N, C, 1, 1] has the size of the map: the map cannot go."""
    nodes = [
        *(node("Conv", "x a bias", "h", **PADDED), node("GlobalAveragePool", "x", "g")),
        *(node("Conv", "g b", "i", kernel_shape=[1, 1]), node("Mul", "h i", "y")),
    ]
    dead = np.zeros((4, 3, 3, 3), np.float32)
    untouched(
        make(nodes, {"a": dead, "bias": [1, 2, 3, 4], "b": normal(4, 3, 1, 1)}),
        CONSTANT_BRANCHES,
    )


def test_squeeze_and_excitation() -> None:
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("GlobalAveragePool", "h", "g")),
        *(
            node("Conv", "g b", "i", kernel_shape=[1, 1]),
            node("Sigmoid", "i", "j"),
            node("Mul", "h j", "k"),
        ),
        node("Conv", "k c", "y", **PADDED),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": normal(4, 4, 1, 1),
        "c": normal(2, 4, 3, 3),
    }
    assert shapes(removed(make(nodes, tensors))) == {
        "a": (3, 3, 3, 3),
        "b": (3, 3, 1, 1),
        "c": (2, 3, 3, 3),
    }


def test_concatenation() -> None:
    nodes = [
        *(
            node("Conv", "x a a_bias", "h", **PADDED),
            node("Conv", "x b", "i", **PADDED),
        ),
        *(node("Concat", "h i", "j", axis=1), node("Conv", "j c", "y", **CONV)),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[0, 3]),
        "a_bias": [1, 2, 3, 4],
        "b": without(normal(2, 3, 3, 3), rows=[1]),
        "c": normal(2, 6, 3, 3),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"][0], shapes(after)["c"]) == (
        2,
        1,
        (2, 3, 3, 3),
    )
