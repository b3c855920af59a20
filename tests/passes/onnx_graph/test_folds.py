"""Scales and shifts folded into the layers after and before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.fold_batch_norm import FOLD_BATCH_NORM
from sparsify_fx.passes.onnx_graph.fold_before import FOLD_BEFORE
from tests.passes.onnx_graph.common import (
    Array,
    copy,
    distance,
    kinds,
    make,
    node,
    normal,
    shapes,
)

X = normal(2, 3, 8, 8)
NORM = "scale shift mean var"
PADS = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def statistics(channels: int) -> dict[str, Array]:
    """Scales of both signs, one of them zero."""
    scale = normal(channels, seed=1)
    scale[0], scale[1] = 0, -abs(scale[1])
    names = zip(
        ("scale", "shift", "mean", "var"),
        (scale, *(normal(channels, seed=s) for s in (2, 3, 4))),
        strict=True,
    )
    return {name: abs(value) + 0.1 if name == "var" else value for name, value in names}


def norm(x: str, y: str, **attributes: Any) -> onnx.NodeProto:
    return node("BatchNormalization", f"{x} {NORM}", y, **attributes)


def folded(
    one: GraphPass, model: onnx.ModelProto, left: list[str], x: Array = X
) -> onnx.ModelProto:
    """The model after the pass: these operators are left, and the outputs are the same."""
    after = copy(model)
    assert one.run(after)
    assert not one.run(after)
    onnx.checker.check_model(after, full_check=True)
    assert kinds(after) == left
    assert distance(model, after, x) < 1e-6
    return after


def kept(one: GraphPass, model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    assert not one.run(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("bias", ["", " bias"])
@pytest.mark.parametrize(("group", "size"), [(1, 6), (3, 6)])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-1])
def test_norm_after_convolution(
    bias: str, group: int, size: int, epsilon: float
) -> None:
    nodes = [
        node("Conv", f"x w{bias}", "h", group=group, **PADS),
        norm("h", "y", epsilon=epsilon),
    ]
    tensors = {
        "w": normal(size, 3 // group, 3, 3),
        "bias": normal(size),
        **statistics(size),
    }
    folded(FOLD_BATCH_NORM, make(nodes, tensors), ["Conv"])


@pytest.mark.parametrize("bias", ["", " bias"])
@pytest.mark.parametrize("group", [1, 3])
def test_norm_after_transposed_convolution(bias: str, group: int) -> None:
    nodes = [
        node("ConvTranspose", f"x w{bias}", "h", group=group, strides=[2, 2]),
        norm("h", "y"),
    ]
    tensors = {"w": normal(3, 6 // group, 3, 3), "bias": normal(6), **statistics(6)}
    folded(FOLD_BATCH_NORM, make(nodes, tensors), ["ConvTranspose"])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", " row", " one", " matrix"])
def test_norm_after_gemm(transposed: int, bias: str) -> None:
    weight = normal(5, 4).T if transposed else normal(5, 4)
    nodes = [node("Gemm", f"x w{bias}", "h", transB=transposed), norm("h", "y")]
    given = {
        "row": normal(4),
        "one": np.float32(3) * np.ones(1, np.float32),
        "matrix": normal(1, 4),
    }
    after = folded(
        FOLD_BATCH_NORM,
        make(nodes, {"w": weight, **given, **statistics(4)}, x=("N", 5)),
        ["Gemm"],
        normal(2, 5),
    )
    assert after.graph.node[0].output == ["y"]


@pytest.mark.parametrize(
    ("adder", "left"), [(True, ["MatMul", "Add"]), (False, ["MatMul", "Add"])]
)
def test_norm_after_matmul(adder: bool, left: list[str]) -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        *([node("Add", "bias h", "i")] if adder else []),
        norm("i" if adder else "h", "y"),
    ]
    tensors = {"w": normal(5, 4), "bias": normal(4), **statistics(4)}
    folded(FOLD_BATCH_NORM, make(nodes, tensors, x=("N", 5)), left, normal(2, 5))


def test_norm_of_other_channels_than_those_of_the_matmul() -> None:
    """On three axes a batch norm scales axis 1, the linear layer makes axis 2."""
    nodes = [node("MatMul", "x w", "h"), norm("h", "y")]
    kept(
        FOLD_BATCH_NORM,
        make(nodes, {"w": normal(5, 4), **statistics(4)}, x=("N", 4, 5)),
    )


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("Mul", "h k"),
        ("Mul", "k h"),
        ("Add", "k h"),
        ("Sub", "h k"),
        ("Sub", "k h"),
        ("Div", "h k"),
    ],
)
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,), ()])
def test_a_constant_per_channel(kind: str, inputs: str, shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", "x w b", "h", **PADS), node(kind, inputs, "y")]
    tensors = {
        "w": normal(4, 3, 3, 3),
        "b": normal(4),
        "k": normal(*shape) + np.float32(2),
    }
    folded(
        FOLD_BATCH_NORM,
        make(nodes, {**tensors, "k": np.asarray(tensors["k"], np.float32)}),
        ["Conv"],
    )


@pytest.mark.parametrize(
    ("kind", "inputs", "shape"),
    [("Mul", "h k", (8,)), ("Add", "h k", (4, 8, 1)), ("Div", "k h", (1,))],
)
def test_constants_that_are_not_per_channel_stay(
    kind: str, inputs: str, shape: tuple[int, ...]
) -> None:
    nodes = [node("Conv", "x w", "h", **PADS), node(kind, inputs, "y")]
    kept(FOLD_BATCH_NORM, make(nodes, {"w": normal(4, 3, 3, 3), "k": normal(*shape)}))


def test_a_constant_that_widens_one_channel_stays() -> None:
    nodes = [node("Conv", "x w", "h", **PADS), node("Mul", "h k", "y")]
    kept(FOLD_BATCH_NORM, make(nodes, {"w": normal(1, 3, 3, 3), "k": normal(4, 1, 1)}))
    nodes = [node("Mul", "x k", "h"), node("Conv", "h w", "y", **PADS)]
    kept(
        FOLD_BEFORE,
        make(nodes, {"w": normal(4, 3, 3, 3), "k": normal(3, 1, 1)}, x=("N", 1, 8, 8)),
    )


def test_a_chain_folds_to_the_end() -> None:
    nodes = [
        node("Conv", "x w", "h", **PADS),
        norm("h", "i"),
        node("Mul", "i k", "j"),
        node("Add", "k j", "y"),
    ]
    tensors = {"w": normal(4, 3, 3, 3), "k": normal(4, 1, 1), **statistics(4)}
    folded(FOLD_BATCH_NORM, make(nodes, tensors), ["Conv"])


def test_a_result_that_others_read_is_not_rescaled() -> None:
    nodes = [node("Conv", "x w", "h", **PADS), norm("h", "i"), node("Add", "h i", "y")]
    kept(FOLD_BATCH_NORM, make(nodes, {"w": normal(4, 3, 3, 3), **statistics(4)}))
    kept(
        FOLD_BATCH_NORM,
        make(
            [nodes[0], norm("h", "y")],
            {"w": normal(4, 3, 3, 3), **statistics(4)},
            outputs=("y", "h"),
        ),
    )


def test_a_shared_weight_is_not_rescaled() -> None:
    nodes = [
        node("Conv", "x w", "h", **PADS),
        norm("h", "i"),
        node("Conv", "i w", "y", **PADS),
    ]
    kept(FOLD_BATCH_NORM, make(nodes, {"w": normal(3, 3, 3, 3), **statistics(3)}))
    shifted = [nodes[0], node("Add", "h k", "i"), nodes[2]]
    after = folded(
        FOLD_BATCH_NORM,
        make(shifted, {"w": normal(3, 3, 3, 3), "k": normal(3, 1, 1)}),
        ["Conv", "Conv"],
    )
    assert (
        len(after.graph.node[1].input) == 2
    )  # a shift needs no new weight, and the other use gets no bias


def test_a_shared_bias_is_not_overwritten() -> None:
    nodes = [
        node("Conv", "x w b", "h", **PADS),
        norm("h", "i"),
        node("Conv", "i v b", "y", **PADS),
    ]
    tensors = {
        "w": normal(3, 3, 3, 3),
        "v": normal(3, 3, 3, 3, seed=1),
        "b": normal(3),
        **statistics(3),
    }
    folded(FOLD_BATCH_NORM, make(nodes, tensors), ["Conv", "Conv"])


def test_training_statistics_and_infinite_scales_stay() -> None:
    tensors = {"w": normal(4, 3, 3, 3), **statistics(4)}
    model = make([node("Conv", "x w", "h", **PADS), norm("h", "y")], tensors)
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    kept(FOLD_BATCH_NORM, model)
    zero = {**tensors, "var": np.zeros(4, np.float32)}
    kept(
        FOLD_BATCH_NORM,
        make([node("Conv", "x w", "h", **PADS), norm("h", "y", epsilon=0.0)], zero),
    )
    kept(
        FOLD_BATCH_NORM,
        make(
            [node("Conv", "x w", "h", **PADS), node("Div", "h k", "y")],
            {"w": tensors["w"], "k": [0]},
        ),
    )


def test_a_weight_that_would_overflow_stays() -> None:
    tensors = {"w": np.full((4, 3, 3, 3), 1e30, np.float32), "k": [1e30]}
    kept(
        FOLD_BATCH_NORM,
        make([node("Conv", "x w", "h", **PADS), node("Mul", "h k", "y")], tensors),
    )


@pytest.mark.parametrize("group", [1, 3])
def test_norm_before_an_unpadded_convolution(group: int) -> None:
    nodes = [norm("x", "h"), node("Conv", "h w b", "y", group=group)]
    folded(
        FOLD_BEFORE,
        make(
            nodes, {"w": normal(6, 3 // group, 3, 3), "b": normal(6), **statistics(3)}
        ),
        ["Conv"],
    )


def test_a_shift_before_a_padded_convolution_stays() -> None:
    tensors = {"w": normal(6, 3, 3, 3), **statistics(3)}
    nodes = [norm("x", "h"), node("Conv", "h w", "y", **PADS)]
    kept(FOLD_BEFORE, make(nodes, tensors))
    scale_only = {
        **tensors,
        "shift": np.zeros(3, np.float32),
        "mean": np.zeros(3, np.float32),
    }
    folded(FOLD_BEFORE, make(nodes, scale_only), ["Conv"])
    same = [
        norm("x", "h"),
        node("Conv", "h w", "y", auto_pad="SAME_LOWER", kernel_shape=[3, 3]),
    ]
    kept(FOLD_BEFORE, make(same, tensors))


@pytest.mark.parametrize("group", [1, 3])
def test_scales_before_a_transposed_convolution(group: int) -> None:
    nodes = [node("Mul", "x k", "h"), node("ConvTranspose", "h w", "y", group=group)]
    tensors = {"w": normal(3, 6 // group, 3, 3), "k": normal(3, 1, 1)}
    folded(FOLD_BEFORE, make(nodes, tensors), ["ConvTranspose"])
    kept(FOLD_BEFORE, make([node("Add", "x k", "h"), nodes[1]], tensors))


@pytest.mark.parametrize("kind", ["Gemm", "GemmT", "MatMulAdd"])
def test_norm_before_linear_layers(kind: str) -> None:
    weight = normal(4, 5) if kind == "GemmT" else normal(5, 4)
    layer = [node("Gemm", "h w b", "y", transB=int(kind == "GemmT"))]
    if kind == "MatMulAdd":
        layer = [node("MatMul", "h w", "i"), node("Add", "i b", "y")]
    model = make(
        [norm("x", "h"), *layer],
        {"w": weight, "b": normal(4), **statistics(5)},
        x=("N", 5),
    )
    folded(FOLD_BEFORE, model, kinds(model)[1:], normal(2, 5))


@pytest.mark.parametrize("how", ["Flatten", "Reshape"])
def test_norm_before_flatten_and_a_linear_layer(how: str) -> None:
    flat = (
        node("Flatten", "h", "i")
        if how == "Flatten"
        else node("Reshape", "h target", "i")
    )
    nodes = [norm("x", "h"), flat, node("Gemm", "i w b", "y", transB=1)]
    tensors = {
        "w": normal(4, 192),
        "b": normal(4),
        "target": np.array([-1, 192]),
        **statistics(3),
    }
    folded(FOLD_BEFORE, make(nodes, tensors), [how, "Gemm"])


def test_a_flatten_of_other_sizes_is_not_folded_across() -> None:
    """[N, 3, 8, 8] -> [M, 64]: a row is one channel, so no column has a scale of its own."""
    nodes = [
        norm("x", "h"),
        node("Reshape", "h target", "i"),
        node("Gemm", "i w", "y", transB=1),
    ]
    kept(
        FOLD_BEFORE,
        make(
            nodes, {"w": normal(4, 64), "target": np.array([-1, 64]), **statistics(3)}
        ),
    )


def test_the_interface_keeps_its_names() -> None:
    nodes = [node("Conv", "x w", "h", **PADS), norm("h", "y")]
    model = make(nodes, {"w": normal(4, 3, 3, 3), **statistics(4)})
    after = folded(FOLD_BATCH_NORM, model, ["Conv"])
    assert list(after.graph.output) == list(model.graph.output)
    assert shapes(after)["w"] == (4, 3, 3, 3)
