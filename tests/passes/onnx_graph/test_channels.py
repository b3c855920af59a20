"""Dead and unread channels, one trap a test; every rewritten graph runs in onnxruntime beside the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS, UNREAD_CHANNELS
from sparsify_fx.passes.onnx_graph.constant_branches import CONSTANT_BRANCHES
from sparsify_fx.passes.onnx_graph.drop_unused import DROP_UNUSED
from tests.passes.onnx_graph.common import Array, copy, distance, kinds, make, node, normal, run, shapes

X = normal(2, 3, 8, 8)
CONV = {"kernel_shape": [3, 3]}
PADDED = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def without(weight: Array, rows: Any = (), columns: Any = ()) -> Array:
    """The weight with dead outputs (rows) and unread inputs (columns)."""
    weight = weight.copy()
    weight[list(rows)] = 0
    weight[:, list(columns)] = 0
    return weight


def removed(model: onnx.ModelProto, *passes: Any, x: Array = X, tolerance: float = 1e-6) -> onnx.ModelProto:
    """The model after the passes, each of which must change it, once; equal in onnxruntime."""
    work = copy(model)
    for one in passes or (DEAD_CHANNELS,):
        assert one.run(work)
        assert not one.run(work)
    onnx.checker.check_model(work, full_check=True)
    assert list(work.graph.input) == list(model.graph.input)
    assert list(work.graph.output) == list(model.graph.output)
    assert distance(model, work, x) <= tolerance
    return work


def untouched(model: onnx.ModelProto, *passes: Any) -> None:
    """No pass changes a byte."""
    before = model.SerializeToString(deterministic=True)
    for one in passes or (DEAD_CHANNELS, UNREAD_CHANNELS):
        assert not one.run(model)
    assert model.SerializeToString(deterministic=True) == before


def two_convs(bias: Any, second: dict[str, Any], activation: str = "Relu", **more: Array) -> onnx.ModelProto:
    """conv a (4 channels, number 1 and 2 dead) -> activation -> conv b (5 channels)."""
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1, 2]), "a_bias": bias, "b": normal(5, 4, 3, 3), **more}
    nodes = [
        node("Conv", "x a a_bias", "h", **CONV),
        node(activation, "h", "z"),
        node("Conv", "z b b_bias" if "b_bias" in tensors else "z b", "y", **second),
    ]
    return make(nodes, tensors)


def test_a_constant_moves_into_the_bias_of_its_reader() -> None:
    after = removed(two_convs([0.1, 2.0, -3.0, 0.2], CONV, b_bias=normal(5)))
    assert shapes(after) == {"a": (2, 3, 3, 3), "a_bias": (2,), "b": (5, 2, 3, 3), "b_bias": (5,)}


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
    nodes = [node("Conv", "x a", "h", **PADDED), node("Relu", "h", "z"), node("Conv", "z b", "y", **PADDED)]
    untouched(make(nodes, {"a": normal(4, 3, 3, 3), "b": normal(5, 4, 3, 3)}), DEAD_CHANNELS, UNREAD_CHANNELS)


def test_channels_that_nothing_reads_go_and_so_do_those_before_them() -> None:
    a, b, c = normal(4, 3, 3, 3), normal(5, 4, 3, 3), without(normal(2, 5, 3, 3), columns=[0, 3])
    b[1:3, 2] = b[4, 2] = 0  # channel 2 of a is read by the unread channels 0 and 3 alone
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Relu", "h", "i"), node("Conv", "i b", "j", **PADDED)),
        *(node("Tanh", "j", "k"), node("Conv", "k c", "y", **PADDED)),
    ]
    after = removed(make(nodes, {"a": a, "b": b, "c": c}), UNREAD_CHANNELS)
    assert shapes(after) == {"a": (3, 3, 3, 3), "b": (3, 3, 3, 3), "c": (2, 3, 3, 3)}


def residual(left: Array, right: Array, last: Array, bias: Any = (0, 0, 0, 0)) -> onnx.ModelProto:
    nodes = [
        *(node("Conv", "x left bias", "l", **PADDED), node("Conv", "x right", "r", **PADDED)),
        *(node("Add", "l r", "s"), node("Relu", "s", "z"), node("Conv", "z last", "y", **PADDED)),
    ]
    return make(nodes, {"left": left, "right": right, "last": last, "bias": bias})


def test_a_sum_keeps_a_channel_that_one_addend_needs() -> None:
    left, right, last = normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1), normal(2, 4, 3, 3)
    untouched(residual(without(left, rows=[1, 2]), without(right, rows=[3]), last))
    after = removed(residual(without(left, rows=[1, 2]), without(right, rows=[2, 3]), last))
    assert shapes(after)["left"] == shapes(after)["right"] == (3, 3, 3, 3)
    assert shapes(after)["last"] == (2, 3, 3, 3)


def test_a_sum_of_two_constants_is_a_constant() -> None:
    left, right = (without(normal(4, 3, 3, 3, seed=seed), rows=[2]) for seed in (0, 1))
    untouched(residual(left, right, normal(2, 4, 3, 3), bias=[0, 0, 1, 0]))  # 1 before a padded convolution
    assert shapes(removed(residual(left, right, normal(2, 4, 3, 3), bias=[0, 0, -1, 0])))["left"] == (3, 3, 3, 3)


def test_a_sum_loses_what_nothing_reads_in_all_addends() -> None:
    last = without(normal(2, 4, 3, 3), columns=[0, 3])
    after = removed(residual(normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1), last), UNREAD_CHANNELS)
    assert shapes(after)["left"] == shapes(after)["right"] == (2, 3, 3, 3)
    assert shapes(after)["bias"] == (2,)


def test_a_residual_branch_without_weights_goes_as_a_whole() -> None:
    model = residual(np.zeros((4, 3, 3, 3), np.float32), normal(4, 3, 3, 3), normal(2, 4, 3, 3))
    after = removed(model, CONSTANT_BRANCHES, DROP_UNUSED, tolerance=0)
    assert kinds(after) == ["Conv", "Relu", "Conv"]
    model = residual(np.zeros((4, 3, 3, 3), np.float32), normal(4, 3, 3, 3), normal(2, 4, 3, 3), bias=[1, 0, 2, 3])
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
    untouched(make(nodes, {"a": dead, "bias": [1, 2, 3, 4], "b": normal(4, 3, 1, 1)}), CONSTANT_BRANCHES)


def test_squeeze_and_excitation() -> None:
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("GlobalAveragePool", "h", "g")),
        *(node("Conv", "g b", "i", kernel_shape=[1, 1]), node("Sigmoid", "i", "j"), node("Mul", "h j", "k")),
        node("Conv", "k c", "y", **PADDED),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(4, 4, 1, 1), "c": normal(2, 4, 3, 3)}
    assert shapes(removed(make(nodes, tensors))) == {"a": (3, 3, 3, 3), "b": (3, 3, 1, 1), "c": (2, 3, 3, 3)}


def test_concatenation() -> None:
    nodes = [
        *(node("Conv", "x a a_bias", "h", **PADDED), node("Conv", "x b", "i", **PADDED)),
        *(node("Concat", "h i", "j", axis=1), node("Conv", "j c", "y", **CONV)),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[0, 3]),
        "a_bias": [1, 2, 3, 4],
        "b": without(normal(2, 3, 3, 3), rows=[1]),
        "c": normal(2, 6, 3, 3),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"][0], shapes(after)["c"]) == (2, 1, (2, 3, 3, 3))


def depthwise(inner: Array, weight: Array, bias: Any, group: int, pads: int) -> onnx.ModelProto:
    options = {"kernel_shape": [3, 3], "pads": [pads] * 4}
    nodes = [
        *(node("Conv", "x a bias", "h", **PADDED), node("Conv", "h b", "i", group=group, **options)),
        node("Conv", "i c", "y", **CONV),
    ]
    return make(nodes, {"a": inner, "bias": bias, "b": weight, "c": normal(2, len(weight), 3, 3)})


def test_depthwise() -> None:
    dead = without(normal(4, 3, 3, 3), rows=[1])
    for pads in (0, 1):
        after = removed(depthwise(dead, normal(8, 1, 3, 3), [1, 0, 1, 1], 4, pads))
        assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"][1]) == (3, (6, 1, 3, 3), 6)
        assert next(item for item in after.graph.node[1].attribute if item.name == "group").i == 3
    assert shapes(removed(depthwise(dead, normal(4, 1, 3, 3), [1, 5, 1, 1], 4, 0)))["c"] == (2, 3, 3, 3)
    untouched(depthwise(dead, normal(4, 1, 3, 3), [1, 5, 1, 1], 4, 1))  # 5, but less at the border


def test_a_dead_depthwise_kernel_needs_no_input() -> None:
    after = removed(depthwise(normal(4, 3, 3, 3), without(normal(4, 1, 3, 3), rows=[2]), [1, 1, 1, 1], 4, 1))
    assert (shapes(after)["a"][0], shapes(after)["b"][0]) == (3, 3)


def test_a_grouped_convolution_loses_whole_groups_only() -> None:
    one, group = without(normal(4, 3, 3, 3), rows=[2]), without(normal(4, 3, 3, 3), rows=[2, 3])
    untouched(depthwise(one, normal(6, 2, 3, 3), [0, 0, 0, 0], 2, 1))
    after = removed(depthwise(group, normal(6, 2, 3, 3), [0, 0, 0, 0], 2, 1))
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"][1]) == (2, (3, 2, 3, 3), 3)


def test_batch_norm_with_negative_and_zero_scale() -> None:
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("BatchNormalization", "h scale shift mean var", "i")),
        *(node("Relu", "i", "j"), node("Conv", "j b", "y", **CONV)),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": normal(2, 4, 3, 3),
        "scale": [1, -2, 0, 1],
        "shift": [1, 2, 3, 1],
        "mean": [0, 4, 1, 1],
        "var": [1, 4, 1, 1],
    }
    after = removed(make(nodes, tensors))
    assert {name: shape[0] for name, shape in shapes(after).items() if name != "b.bias"} == {
        "a": 2,
        "b": 2,
        "scale": 2,
        "shift": 2,
        "mean": 2,
        "var": 2,
    }


@pytest.mark.parametrize(
    "kind", ["InstanceNormalization", "GroupNormalization", "LayerNormalization", "LRN", "Softmax"]
)
def test_other_norms_keep_all_channels(kind: str) -> None:
    vectors, more = "", {}
    if kind in ("InstanceNormalization", "GroupNormalization"):
        vectors = " scale shift"
    if kind == "LayerNormalization":
        vectors, more = " wide", {"axis": 1}
    more |= {"GroupNormalization": {"num_groups": 2}, "LRN": {"size": 3}, "Softmax": {"axis": 1}}.get(kind, {})
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node(kind, f"h{vectors}", "i", **more)),
        node("Conv", "i b", "y", **PADDED),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    given = {"scale": normal(4), "shift": normal(4), "wide": normal(4, 8, 8)}
    tensors |= {name: value for name, value in given.items() if name in vectors}
    untouched(make(nodes, tensors, opset=21), DEAD_CHANNELS)


@pytest.mark.parametrize("how", ["Flatten", "Reshape", "ReshapeCopy"])
@pytest.mark.parametrize("batch", ["N", 2])
def test_flattened_channels_take_all_their_columns_along(how: str, batch: str | int) -> None:
    target = {"Reshape": [-1, 144], "ReshapeCopy": [0, -1]}.get(how, [0])
    flat = node("Flatten", "h", "i", axis=1) if how == "Flatten" else node("Reshape", "h target", "i")
    nodes = [node("Conv", "x a bias", "h", **CONV), flat, node("Gemm", "i b c", "y", transB=1)]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "bias": [1, 2, 3, 4], "b": normal(5, 144), "c": normal(5)}
    after = removed(make(nodes, {**tensors, "target": np.array(target)}, x=(batch, 3, 8, 8)))
    assert (shapes(after)["a"][0], shapes(after)["b"]) == (3, (5, 108))


def test_the_positions_of_a_flattened_channel_are_not_separate() -> None:
    weight = normal(5, 144)
    weight[:, 36:71] = 0  # all but one position of channel 1
    nodes = [node("Conv", "x a", "h", **CONV), node("Flatten", "h", "i"), node("Gemm", "i b", "y", transB=1)]
    untouched(make(nodes, {"a": normal(4, 3, 3, 3), "b": weight}))


@pytest.mark.parametrize("kind", ["Gemm", "GemmT", "MatMul", "MatMulAdd"])
def test_linear_layers_in_every_layout(kind: str) -> None:
    hidden, last = without(normal(6, 5), rows=[0, 4]), without(normal(3, 6), columns=[2])

    def layer(x: str, name: str, y: str) -> list[onnx.NodeProto]:
        if kind.startswith("Gemm"):
            return [node("Gemm", f"{x} {name} {name}_bias", y, transB=int(kind == "GemmT"))]
        if kind == "MatMul":
            return [node("MatMul", f"{x} {name}", y)]
        return [node("MatMul", f"{x} {name}", f"{y}_"), node("Add", f"{name}_bias {y}_", y)]

    nodes = [*layer("x", "a", "h"), node("Sigmoid", "h", "i"), *layer("i", "b", "y")]
    tensors = {"a": hidden, "b": last} if kind == "GemmT" else {"a": hidden.T, "b": last.T}
    if kind != "MatMul":
        tensors |= {"a_bias": normal(6), "b_bias": normal(3)}
    after = removed(make(nodes, tensors, x=("N", 5)), x=normal(2, 5))
    assert sorted(shapes(after)["a"]) == [3, 5]
    assert sorted(shapes(after)["b"]) == [3, 3]
    if kind == "MatMul":
        assert kinds(after) == ["MatMul", "Sigmoid", "MatMul", "Add"]  # the constants need a place


def test_linear_layers_on_three_axes() -> None:
    nodes = [node("MatMul", "x a", "h"), node("Gelu", "h", "i"), node("MatMul", "i b", "y")]
    tensors = {"a": without(normal(5, 6), columns=[1, 2]), "b": normal(6, 3)}
    after = removed(make(nodes, tensors, x=("N", "T", 5), opset=20), x=normal(2, 7, 5))
    assert shapes(after) == {"a": (5, 4), "b": (4, 3)}


def test_a_weight_that_two_layers_share_is_sliced_alike_or_not_at_all() -> None:
    shared = without(normal(4, 4, 3, 3), rows=[1], columns=[1])
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Conv", "h s", "i", **PADDED), node("Relu", "i", "j")),
        *(node("Conv", "j s", "k", **PADDED), node("Conv", "k b", "y", **PADDED)),
    ]
    after = removed(make(nodes, {"a": normal(4, 3, 3, 3), "s": shared, "b": normal(2, 4, 3, 3)}))
    assert shapes(after) == {"a": (3, 3, 3, 3), "s": (3, 3, 3, 3), "b": (2, 3, 3, 3)}
    alive = without(normal(4, 4, 3, 3), rows=[1])  # its first use reads channel 1 of a, so its second one must as well
    untouched(make(nodes, {"a": normal(4, 3, 3, 3), "s": alive, "b": normal(2, 4, 3, 3)}))


def test_a_weight_that_something_else_reads_too_stays() -> None:
    nodes = [node("Gemm", "x a", "h"), node("Gemm", "h b", "i"), node("Gather", "b one", "j"), node("Add", "i j", "y")]
    tensors = {"a": normal(4, 6), "b": without(normal(6, 3), rows=[2]), "one": np.array(2)}
    untouched(make(nodes, tensors, x=("N", 4)))


def test_a_shared_bias_is_copied_when_one_reader_changes_it() -> None:
    nodes = [
        *(node("Conv", "x a bias", "h", **CONV), node("Conv", "h b bias", "i", **CONV)),
        node("Conv", "i c bias", "y", **CONV),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(4, 4, 3, 3), "c": normal(4, 4, 3, 3, seed=1)}
    after = removed(make(nodes, {**tensors, "bias": [1, 2, 3, 4]}))
    assert shapes(after)["a"] == (3, 3, 3, 3)
    assert shapes(after)["c"] == (4, 4, 3, 3)


def test_a_channel_of_a_graph_output_stays() -> None:
    nodes = [node("Conv", "x a", "h", **PADDED), node("Relu", "h", "i"), node("Conv", "i b", "y", **PADDED)]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": without(normal(2, 4, 3, 3), columns=[2])}
    for outputs in (("y", "i"), ("h", "y")):
        untouched(make(nodes, tensors, outputs=outputs))
    assert shapes(removed(make(nodes, tensors)))["a"] == (2, 3, 3, 3)


def test_a_layer_that_is_dead_throughout_keeps_one_channel() -> None:
    nodes = [node("Conv", "x a bias", "h", **PADDED), node("Relu", "h", "i"), node("Conv", "i b", "y", **PADDED)]
    tensors = {"a": np.zeros((4, 3, 3, 3), np.float32), "bias": [0, -1, 0, -2], "b": normal(2, 4, 3, 3)}
    after = removed(make(nodes, tensors))
    assert shapes(after) == {"a": (1, 3, 3, 3), "bias": (1,), "b": (2, 1, 3, 3)}


def test_a_transposed_convolution() -> None:
    options = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("ConvTranspose", "h b b_bias", "i", **options)),
        *(node("Relu", "i", "j"), node("Conv", "j c", "y", **CONV)),
    ]
    b = without(normal(4, 5, 2, 2), columns=[3])
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": b, "b_bias": [1, 1, 1, 2, 1], "c": normal(2, 5, 3, 3)}
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"]) == (3, (3, 4, 2, 2), (2, 4, 3, 3))


def test_pooling_and_padding() -> None:
    def model(kind: str, bias: float, **options: Any) -> onnx.ModelProto:
        nodes = [
            *(node("Conv", "x a bias", "h", **CONV), node(kind, "h", "i", kernel_shape=[2, 2], **options)),
            node("Conv", "i b", "y", **CONV),
        ]
        tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "bias": [0, bias, 0, 0], "b": normal(2, 4, 3, 3)}
        return make(nodes, tensors)

    around = [1, 1, 1, 1]
    for kept in (model("MaxPool", 3, pads=around), model("AveragePool", 3, pads=around), model("AveragePool", 3)):
        assert shapes(removed(kept))["b"] == (2, 3, 3, 3)
    untouched(model("AveragePool", 3, pads=around, count_include_pad=1))  # the border counts zeros
    assert shapes(removed(model("AveragePool", 0, pads=around, count_include_pad=1)))["b"] == (2, 3, 3, 3)
    untouched(model("MaxPool", 3, ceil_mode=1))


@pytest.mark.parametrize(("fill", "mode", "left"), [(0, "constant", 4), (2, "constant", 3), (0, "edge", 3)])
def test_an_explicit_pad(fill: float, mode: str, left: int) -> None:
    pad = node("Pad", "h pads fill" if mode == "constant" else "h pads", "i", mode=mode)
    nodes = [node("Conv", "x a bias", "h", **CONV), pad, node("Conv", "i b", "y", **CONV)]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "bias": [0, 2, 0, 0], "b": normal(2, 4, 3, 3)}
    more = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.float32(fill)}
    model = make(nodes, {**tensors, **(more if mode == "constant" else {"pads": more["pads"]})})
    if left == 4:
        untouched(model)
    else:
        assert shapes(removed(model))["b"] == (2, 3, 3, 3)


def test_the_shortcut_of_small_resnets_pads_fewer_channels() -> None:
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Slice", "h zero end axes two", "i"), node("Pad", "i pads", "j")),
        *(node("Conv", "h b", "k", **PADDED, strides=[2, 2]), node("Add", "k j", "l"), node("Relu", "l", "m")),
        node("Conv", "m c", "y", **PADDED),
    ]
    tensors = {
        "a": normal(4, 3, 3, 3),
        "b": without(normal(8, 4, 3, 3), rows=[0, 1, 3, 7]),
        "c": normal(2, 8, 3, 3),
        "zero": np.array([0, 0]),
        "end": np.array([99, 99]),
        "axes": np.array([2, 3]),
        "two": np.array([2, 2]),
        "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["b"], shapes(after)["c"]) == ((5, 4, 3, 3), (2, 5, 3, 3))
    pads = next(item for item in after.graph.initializer if item.name == "pads")
    assert onnx.numpy_helper.to_array(pads).tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("given", [True, False])
def test_split_and_slice_along_the_channels(given: bool) -> None:
    split = node("Split", "h sizes", "i j", axis=1) if given else node("Split", "h", "i j", axis=1, num_outputs=2)
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), split, node("Slice", "h start end axes", "k")),
        *(node("Concat", "j k", "l", axis=1), node("Conv", "l b", "m", **CONV), node("Conv", "i c", "n", **CONV)),
        node("Add", "m n", "y"),
    ]
    tensors = {
        "a": without(normal(6, 3, 3, 3), rows=[1, 4]),
        "b": normal(2, 6, 3, 3),
        "c": normal(2, 3, 3, 3),
        "sizes": np.array([3, 3]),
        "start": np.array([1]),
        "end": np.array([-2]),
        "axes": np.array([-3]),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"][1], shapes(after)["c"][1]) == (4, 4, 2)


def test_transposed_and_squeezed_channels() -> None:
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Transpose", "h", "i", perm=[0, 2, 3, 1])),
        *(node("MatMul", "i b", "j"), node("ReduceMean", "j axes", "k", keepdims=0)),
        *(node("Unsqueeze", "k first", "l"), node("Gemm", "m c", "y"), node("Squeeze", "l first", "m")),
    ]
    nodes[-2:] = nodes[:-3:-1]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": without(normal(4, 5), columns=[0]),
        "c": normal(5, 3),
        "axes": np.array([1, 2]),
        "first": np.array([0]),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"]) == (3, (3, 4), (4, 3))


def test_a_reshape_that_mixes_channels_keeps_them() -> None:
    """Channel shuffle: [N, 4, H, W] -> [N, 2, 2, H, W]."""
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Reshape", "h apart", "i")),
        *(node("Transpose", "i", "j", perm=[0, 2, 1, 3, 4]), node("Reshape", "j back", "k")),
        node("Conv", "k b", "y", **PADDED),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    untouched(make(nodes, {**tensors, "apart": np.array([-1, 2, 2, 8, 8]), "back": np.array([-1, 4, 8, 8])}))


def test_reading_the_shape_keeps_the_channels_unless_it_reads_others_only() -> None:
    def model(**which: int) -> onnx.ModelProto:
        nodes = [
            *(node("Conv", "x a", "h", **PADDED), node("Shape", "h", "s", **which)),
            *(
                node("Conv", "h b", "i", **PADDED),
                node("Cast", "s", "f", to=1),
                node("ReduceSum", "f", "t", keepdims=0),
            ),
            node("Add", "i t", "y"),
        ]
        return make(nodes, {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)})

    untouched(model())
    untouched(model(start=-3, end=-2))
    for which in ({"end": 1}, {"start": 2}, {"start": -1}):
        assert shapes(removed(model(**which)))["a"] == (3, 3, 3, 3)


def test_subgraphs_and_unknown_operators_keep_what_they_read() -> None:
    value = helper.make_tensor_value_info
    branches = {
        "then_branch": helper.make_graph([node("Relu", "h", "p")], "then", [], [value("p", 1, None)]),
        "else_branch": helper.make_graph([node("Neg", "h", "q")], "else", [], [value("q", 1, None)]),
    }
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("If", "yes", "i", **branches), node("Conv", "i b", "j", **PADDED)),
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
        [nodes[0], node("Relu", "h", "i"), node("Conv", "i b", "y", **PADDED)], {"a": tensors["a"], "b": tensors["b"]}
    )
    custom.graph.node[1].domain = "com.example"
    custom.opset_import.append(helper.make_opsetid("com.example", 1))
    untouched(custom)


def test_weights_that_a_caller_may_override_are_no_constants() -> None:
    nodes = [node("Conv", "x a", "h", **PADDED), node("Conv", "h b", "y", **PADDED)]
    model = make(nodes, {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": without(normal(2, 4, 3, 3), columns=[1])})
    for name, shape in (("a", [4, 3, 3, 3]), ("b", [2, 4, 3, 3])):
        model.graph.input.append(helper.make_tensor_value_info(name, 1, shape))
    untouched(model)


def test_recorded_shapes_follow() -> None:
    model = onnx.shape_inference.infer_shapes(two_convs([0.1, 2.0, -3.0, 0.2], CONV))
    assert {item.name for item in model.graph.value_info} == {"h", "z"}
    after = removed(model)
    sizes = [[dim.dim_value or dim.dim_param for dim in v.type.tensor_type.shape.dim] for v in after.graph.value_info]
    assert sizes == [["N", 2, 6, 6]] * 2


def test_half_precision_and_double_are_left_alone() -> None:
    nodes = [node("Cast", "x", "w", to=11), node("Conv", "w a", "h", **CONV), node("Conv", "h b", "i", **CONV)]
    nodes.append(node("Cast", "i", "y", to=1))
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    untouched(make(nodes, {name: value.astype(np.float64) for name, value in tensors.items()}))


def test_negative_zeros_count_as_zeros() -> None:
    weight = without(normal(4, 3, 3, 3), rows=[1])
    weight[1] = -0.0
    nodes = [node("Conv", "x a", "h", **PADDED), node("Conv", "h b", "y", **PADDED)]
    assert shapes(removed(make(nodes, {"a": weight, "b": normal(2, 4, 3, 3)})))["a"] == (3, 3, 3, 3)


def test_a_value_without_channels_to_follow() -> None:
    """A layer on a graph input, and one on the result of an operator that is not understood."""
    nodes = [node("Softmax", "x", "h", axis=1), node("Conv", "h a", "i", **PADDED), node("Conv", "i b", "y", **PADDED)]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1], columns=[0]), "b": normal(2, 4, 3, 3)}
    after = removed(make(nodes, tensors))
    assert shapes(after)["a"] == (3, 3, 3, 3)
    assert run(after, X)[0].shape == (2, 2, 8, 8)
