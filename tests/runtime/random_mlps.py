"""Random sparse products, with a normalization before and a second product after, as ours and in standard operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.runtime.random_layers import Case, finish, random_matmul, sparse

Part = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def random_mlp(random: np.random.Generator) -> Case:
    """One or two products of odd sizes on a few or many pixels, with or without a normalization."""
    if random.random() < 0.3:
        return replace(random_matmul(random), norm=_norm(random), packed=True)
    inner, outer = (int(random.integers(1, 90)) for _ in range(2))
    hidden = int(random.choice([random.integers(1, 60), random.integers(100, 700)]))
    pixels = int(random.choice([random.integers(1, 20), random.integers(60, 300)]))
    leading = (int(random.integers(1, 3)), pixels)
    flips = random.integers(0, 2, 2).tolist()
    weights = [
        sparse(random, (second, first) if flip else (first, second))
        for first, second, flip in (
            (inner, hidden, flips[0]),
            (hidden, outer, flips[1]),
        )
    ]
    x = random.standard_normal((*leading, inner), np.float32)
    first, second = (
        finish("MatMul", random, x, weight, (*leading, width), {"transB": flip})
        for weight, width, flip in zip(weights, (hidden, outer), flips, strict=True)
    )
    return replace(
        first,
        kind="Mlp",
        residual=second.residual,
        packed=True,
        second=replace(second, residual=None),
        norm=_norm(random) if random.random() < 0.6 else None,
    )


def _norm(random: np.random.Generator) -> tuple[int, float, bool]:
    return (
        int(random.integers(1 << 30)),
        float(random.choice([1e-6, 1e-5, 0.1])),
        bool(random.random() < 0.7),
    )


def norm_constants(case: Case) -> dict[str, np.ndarray]:
    """Its scale, and its shift where it has one."""
    if case.norm is None:
        return {}
    seed, _, shifted = case.norm
    drawn = np.random.default_rng(seed).standard_normal(
        (2, case.x.shape[-1]), np.float32
    )
    return {"s": drawn[0], "t": drawn[1]} if shifted else {"s": drawn[0]}


def own_nodes(case: Case, tag: str, encode: Callable[..., tuple]) -> Part:
    """The case as one operator of ours."""
    layers = [case] if case.second is None else [case, case.second]
    constants: dict[str, np.ndarray | None] = {}
    attributes: dict[str, object] = {}
    for layer, prefix in zip(layers, ("", "second_"), strict=False):
        names = [prefix[:1] + name for name in ("w", "gaps", "b")]
        constants |= dict(zip(names, (*encode(layer.weight), layer.bias), strict=True))
        given = layer.attributes | {"weight_shape": layer.weight.shape}
        given |= {"activation": layer.activation} if layer.activation else {}
        attributes |= {prefix + name: value for name, value in given.items()}
    if case.norm is not None:
        attributes["norm_epsilon"] = [case.norm[1]]
    inputs = [f"x{tag}"]
    inputs += [name + tag if constants[name] is not None else "" for name in constants]
    inputs += [f"z{tag}" if case.residual is not None else ""]
    constants |= norm_constants(case)
    inputs += [f"{name}{tag}" for name in norm_constants(case)]
    node = helper.make_node(
        "SparseMlp" if case.second is not None else "SparseMatMul",
        inputs,
        [f"y{tag}"],
        domain="sparsify_fx",
        **attributes,
    )
    return [node], [
        numpy_helper.from_array(array, name + tag)
        for name, array in constants.items()
        if array is not None
    ]


def standard_nodes(case: Case, tag: str, dense: Callable[[Case, str], Part]) -> Part:
    """The same in standard operators; `dense` makes those of one product."""
    norm = norm_constants(case)
    nodes = [helper.make_node("Identity", [f"x{tag}"], [f"x{tag}a"])]
    if case.norm is not None:
        nodes[0] = helper.make_node(
            "LayerNormalization",
            [f"x{tag}", *(name + tag for name in norm)],
            [f"x{tag}a"],
            epsilon=case.norm[1],
        )
    weights = [numpy_helper.from_array(each, name + tag) for name, each in norm.items()]
    layers = [replace(case, kind="MatMul", second=None, norm=None)]
    if case.second is not None:
        layers = [
            replace(layers[0], residual=None),
            replace(case.second, residual=case.residual),
        ]
    if case.residual is not None:
        last = "ab"[len(layers) - 1]
        nodes.append(helper.make_node("Identity", [f"z{tag}"], [f"z{tag}{last}"]))
    for layer, letter in zip(layers, "ab", strict=False):
        made, more = dense(layer, tag + letter)
        nodes += made
        weights += more
        following = f"x{tag}b" if letter == "a" and len(layers) == 2 else f"y{tag}"
        nodes.append(helper.make_node("Identity", [f"y{tag}{letter}"], [following]))
    return nodes, weights
