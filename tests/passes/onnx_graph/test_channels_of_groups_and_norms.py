"""Channels of grouped and transposed convolutions and of normalization layers."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS
from tests.passes.onnx_graph.channels import CONV, PADDED, removed, untouched, without
from tests.passes.onnx_graph.common import Array, make, node, normal, shapes


def depthwise(
    inner: Array, weight: Array, bias: Any, group: int, pads: int
) -> onnx.ModelProto:
    options = {"kernel_shape": [3, 3], "pads": [pads] * 4}
    nodes = [
        *(
            node("Conv", "x a bias", "h", **PADDED),
            node("Conv", "h b", "i", group=group, **options),
        ),
        node("Conv", "i c", "y", **CONV),
    ]
    return make(
        nodes,
        {"a": inner, "bias": bias, "b": weight, "c": normal(2, len(weight), 3, 3)},
    )


def test_depthwise() -> None:
    dead = without(normal(4, 3, 3, 3), rows=[1])
    for pads in (0, 1):
        after = removed(depthwise(dead, normal(8, 1, 3, 3), [1, 0, 1, 1], 4, pads))
        assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"][1]) == (
            3,
            (6, 1, 3, 3),
            6,
        )
        assert (
            next(
                item for item in after.graph.node[1].attribute if item.name == "group"
            ).i
            == 3
        )
    assert shapes(removed(depthwise(dead, normal(4, 1, 3, 3), [1, 5, 1, 1], 4, 0)))[
        "c"
    ] == (2, 3, 3, 3)
    untouched(
        depthwise(dead, normal(4, 1, 3, 3), [1, 5, 1, 1], 4, 1)
    )  # 5, but less at the border


def test_a_dead_depthwise_kernel_needs_no_input() -> None:
    after = removed(
        depthwise(
            normal(4, 3, 3, 3),
            without(normal(4, 1, 3, 3), rows=[2]),
            [1, 1, 1, 1],
            4,
            1,
        )
    )
    assert (shapes(after)["a"][0], shapes(after)["b"][0]) == (3, 3)


def test_a_grouped_convolution_loses_whole_groups_only() -> None:
    one, group = (
        without(normal(4, 3, 3, 3), rows=[2]),
        without(normal(4, 3, 3, 3), rows=[2, 3]),
    )
    untouched(depthwise(one, normal(6, 2, 3, 3), [0, 0, 0, 0], 2, 1))
    after = removed(depthwise(group, normal(6, 2, 3, 3), [0, 0, 0, 0], 2, 1))
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"][1]) == (
        2,
        (3, 2, 3, 3),
        3,
    )


def test_batch_norm_with_negative_and_zero_scale() -> None:
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("BatchNormalization", "h scale shift mean var", "i"),
        ),
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
    assert {
        name: shape[0] for name, shape in shapes(after).items() if name != "b.bias"
    } == {
        "a": 2,
        "b": 2,
        "scale": 2,
        "shift": 2,
        "mean": 2,
        "var": 2,
    }


@pytest.mark.parametrize(
    "kind",
    [
        "InstanceNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "LRN",
        "Softmax",
    ],
)
def test_other_norms_keep_all_channels(kind: str) -> None:
    vectors, more = "", {}
    if kind in ("InstanceNormalization", "GroupNormalization"):
        vectors = " scale shift"
    if kind == "LayerNormalization":
        vectors, more = " wide", {"axis": 1}
    more |= {
        "GroupNormalization": {"num_groups": 2},
        "LRN": {"size": 3},
        "Softmax": {"axis": 1},
    }.get(kind, {})
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node(kind, f"h{vectors}", "i", **more)),
        node("Conv", "i b", "y", **PADDED),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    given = {"scale": normal(4), "shift": normal(4), "wide": normal(4, 8, 8)}
    tensors |= {name: value for name, value in given.items() if name in vectors}
    untouched(make(nodes, tensors, opset=21), DEAD_CHANNELS)


def test_a_transposed_convolution() -> None:
    options = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("ConvTranspose", "h b b_bias", "i", **options),
        ),
        *(node("Relu", "i", "j"), node("Conv", "j c", "y", **CONV)),
    ]
    b = without(normal(4, 5, 2, 2), columns=[3])
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "b": b,
        "b_bias": [1, 1, 1, 2, 1],
        "c": normal(2, 5, 3, 3),
    }
    after = removed(make(nodes, tensors))
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"]) == (
        3,
        (3, 4, 2, 2),
        (2, 4, 3, 3),
    )
