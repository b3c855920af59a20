"""Channels that a flatten or a linear layer makes or reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.passes.onnx_graph.channels import CONV, removed, untouched, without
from tests.passes.onnx_graph.common import kinds, make, node, normal, shapes


@pytest.mark.parametrize("how", ["Flatten", "Reshape", "ReshapeCopy"])
@pytest.mark.parametrize("batch", ["N", 2])
def test_flattened_channels_take_all_their_columns_along(
    how: str, batch: str | int
) -> None:
    target = {"Reshape": [-1, 144], "ReshapeCopy": [0, -1]}.get(how, [0])
    flat = (
        node("Flatten", "h", "i", axis=1)
        if how == "Flatten"
        else node("Reshape", "h target", "i")
    )
    nodes = [
        node("Conv", "x a bias", "h", **CONV),
        flat,
        node("Gemm", "i b c", "y", transB=1),
    ]
    tensors = {
        "a": without(normal(4, 3, 3, 3), rows=[1]),
        "bias": [1, 2, 3, 4],
        "b": normal(5, 144),
        "c": normal(5),
    }
    after = removed(
        make(nodes, {**tensors, "target": np.array(target)}, x=(batch, 3, 8, 8))
    )
    assert (shapes(after)["a"][0], shapes(after)["b"]) == (3, (5, 108))


def test_the_positions_of_a_flattened_channel_are_not_separate() -> None:
    weight = normal(5, 144)
    weight[:, 36:71] = 0  # all but one position of channel 1
    nodes = [
        node("Conv", "x a", "h", **CONV),
        node("Flatten", "h", "i"),
        node("Gemm", "i b", "y", transB=1),
    ]
    untouched(make(nodes, {"a": normal(4, 3, 3, 3), "b": weight}))


@pytest.mark.parametrize("kind", ["Gemm", "GemmT", "MatMul", "MatMulAdd"])
def test_linear_layers_in_every_layout(kind: str) -> None:
    hidden, last = (
        without(normal(6, 5), rows=[0, 4]),
        without(normal(3, 6), columns=[2]),
    )

    def layer(x: str, name: str, y: str) -> list[onnx.NodeProto]:
        if kind.startswith("Gemm"):
            return [
                node("Gemm", f"{x} {name} {name}_bias", y, transB=int(kind == "GemmT"))
            ]
        if kind == "MatMul":
            return [node("MatMul", f"{x} {name}", y)]
        return [
            node("MatMul", f"{x} {name}", f"{y}_"),
            node("Add", f"{name}_bias {y}_", y),
        ]

    nodes = [*layer("x", "a", "h"), node("Sigmoid", "h", "i"), *layer("i", "b", "y")]
    tensors = (
        {"a": hidden, "b": last} if kind == "GemmT" else {"a": hidden.T, "b": last.T}
    )
    if kind != "MatMul":
        tensors |= {"a_bias": normal(6), "b_bias": normal(3)}
    after = removed(make(nodes, tensors, x=("N", 5)), x=normal(2, 5))
    assert sorted(shapes(after)["a"]) == [3, 5]
    assert sorted(shapes(after)["b"]) == [3, 3]
    if kind == "MatMul":
        assert kinds(after) == [
            "MatMul",
            "Sigmoid",
            "MatMul",
            "Add",
        ]  # the constants need a place


def test_linear_layers_on_three_axes() -> None:
    nodes = [
        node("MatMul", "x a", "h"),
        node("Gelu", "h", "i"),
        node("MatMul", "i b", "y"),
    ]
    tensors = {"a": without(normal(5, 6), columns=[1, 2]), "b": normal(6, 3)}
    after = removed(make(nodes, tensors, x=("N", "T", 5), opset=20), x=normal(2, 7, 5))
    assert shapes(after) == {"a": (5, 4), "b": (4, 3)}
