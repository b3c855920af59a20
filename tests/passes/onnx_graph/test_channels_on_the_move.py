"""Channels through pooling, padding, splits, slices, transposes and reshapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.passes.onnx_graph.channels import CONV, PADDED, removed, untouched, without
from tests.passes.onnx_graph.common import make, node, normal, shapes


def test_pooling_and_padding() -> None:
    def model(kind: str, bias: float, **options: Any) -> onnx.ModelProto:
        nodes = [
            *(
                node("Conv", "x a bias", "h", **CONV),
                node(kind, "h", "i", kernel_shape=[2, 2], **options),
            ),
            node("Conv", "i b", "y", **CONV),
        ]
        tensors = {
            "a": without(normal(4, 3, 3, 3), rows=[1]),
            "bias": [0, bias, 0, 0],
            "b": normal(2, 4, 3, 3),
        }
        return make(nodes, tensors)

    around = [1, 1, 1, 1]
    for kept in (
        model("MaxPool", 3, pads=around),
        model("AveragePool", 3, pads=around),
        model("AveragePool", 3),
    ):
        assert shapes(removed(kept))["b"] == (2, 3, 3, 3)
    untouched(
        model("AveragePool", 3, pads=around, count_include_pad=1)
    )  # the border counts zeros
    assert shapes(removed(model("AveragePool", 0, pads=around, count_include_pad=1)))[
        "b"
    ] == (2, 3, 3, 3)
    untouched(model("MaxPool", 3, ceil_mode=1))


@pytest.mark.parametrize(
    ("fill", "mode", "left"), [(0, "constant", 4), (2, "constant", 3), (0, "edge", 3)]
)
def test_an_explicit_pad(fill: float, mode: str, left: int) -> None:
    pad = node("Pad", "h pads fill" if mode == "constant" else "h pads", "i", mode=mode)
    nodes = [
        node("Conv", "x a bias", "h", **CONV),
        pad,
        node("Conv", "i b", "y", **CONV),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "bias": [0, 2, 0, 0],
        "b": normal(2, 4, 3, 3),
    }
    more = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.float32(fill)}
    model = make(
        nodes, {**tensors, **(more if mode == "constant" else {"pads": more["pads"]})}
    )
    if left == 4:
        untouched(model)
    else:
        assert shapes(removed(model))["b"] == (2, 3, 3, 3)


def test_the_shortcut_of_small_resnets_pads_fewer_channels() -> None:
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("Slice", "h zero end axes two", "i"),
            node("Pad", "i pads", "j"),
        ),
        *(
            node("Conv", "h b", "k", **PADDED, strides=[2, 2]),
            node("Add", "k j", "l"),
            node("Relu", "l", "m"),
        ),
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
    split = (
        node("Split", "h sizes", "i j", axis=1)
        if given
        else node("Split", "h", "i j", axis=1, num_outputs=2)
    )
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            split,
            node("Slice", "h start end axes", "k"),
        ),
        *(
            node("Concat", "j k", "l", axis=1),
            node("Conv", "l b", "m", **CONV),
            node("Conv", "i c", "n", **CONV),
        ),
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
    assert (shapes(after)["a"][0], shapes(after)["b"][1], shapes(after)["c"][1]) == (
        4,
        4,
        2,
    )


def test_transposed_and_squeezed_channels() -> None:
    nodes = [
        *(
            node("Conv", "x a", "h", **PADDED),
            node("Transpose", "h", "i", perm=[0, 2, 3, 1]),
        ),
        *(node("MatMul", "i b", "j"), node("ReduceMean", "j axes", "k", keepdims=0)),
        *(
            node("Unsqueeze", "k first", "l"),
            node("Gemm", "m c", "y"),
            node("Squeeze", "l first", "m"),
        ),
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
    assert (shapes(after)["a"][0], shapes(after)["b"], shapes(after)["c"]) == (
        3,
        (3, 4),
        (4, 3),
    )


def test_a_reshape_that_mixes_channels_keeps_them() -> None:
    """Channel shuffle: [N, 4, H, W] -> [N, 2, 2, H, W]."""
    nodes = [
        *(node("Conv", "x a", "h", **PADDED), node("Reshape", "h apart", "i")),
        *(
            node("Transpose", "i", "j", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "j back", "k"),
        ),
        node("Conv", "k b", "y", **PADDED),
    ]
    tensors = {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
    untouched(
        make(
            nodes,
            {
                **tensors,
                "apart": np.array([-1, 2, 2, 8, 8]),
                "back": np.array([-1, 4, 8, 8]),
            },
        )
    )


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
        return make(
            nodes, {"a": without(normal(4, 3, 3, 3), rows=[1]), "b": normal(2, 4, 3, 3)}
        )

    untouched(model())
    untouched(model(start=-3, end=-2))
    for which in ({"end": 1}, {"start": 2}, {"start": -1}):
        assert shapes(removed(model(**which)))["a"] == (3, 3, 3, 3)
