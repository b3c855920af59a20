"""Multi-head attention as an operator of this package, and in standard ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.runtime.candidates import DOMAIN, attributes
from sparsify_fx.runtime.fusion.join import add_attributes

ATTENTION = "Attention"


@dataclass(frozen=True)
class Heads:
    """softmax(scale Q K^T) V of packed queries, keys and values [images, tokens, 3 * heads * head_size].

    Attributes:
        count: how many heads.
        size: floats of a head.
        tokens_first: the values are [tokens, images, ...], and so is the result.
        scales: what the queries, the keys and their products are multiplied by.
    """

    count: int
    size: int
    tokens_first: bool
    scales: tuple[float, float, float]


def attention_node(heads: Heads, packed: str, output: str, name: str) -> NodeProto:
    """The Attention operator of this package, for these heads of the value `packed`."""
    node = helper.make_node(ATTENTION, [packed], [output], name=name, domain=DOMAIN)
    given = {"heads": heads.count, "head_size": heads.size, "scales": heads.scales}
    add_attributes(node, given | ({"tokens_first": 1} if heads.tokens_first else {}))
    return node


def is_attention(node: NodeProto) -> bool:
    return node.op_type == ATTENTION and node.domain == DOMAIN


def standard_attention(
    node: NodeProto, weights: dict[str, TensorProto]
) -> list[NodeProto]:
    """The standard operators of ours; the constants that they read are added to `weights`."""
    found, output = attributes(node), node.output[0]
    tokens_first = found.get("tokens_first", 0)
    count, size = found["heads"], found["head_size"]
    nodes: list[NodeProto] = []

    def constant(name: str, values: object, dtype: type) -> str:
        weights[f"sparsify_fx.{name}"] = numpy_helper.from_array(
            np.array(values, dtype), f"sparsify_fx.{name}"
        )
        return f"sparsify_fx.{name}"

    def then(kind: str, *inputs: str, **given: Any) -> str:
        nodes.append(
            helper.make_node(
                kind, inputs, [f"{output}.sparsify_fx.{len(nodes)}"], **given
            )
        )
        return str(nodes[-1].output[0])

    def scaled(value: str, scale: float) -> str:
        return (
            value
            if scale == 1
            else then("Mul", value, constant(f"scale.{scale!r}", scale, np.float32))
        )

    # 1. Queries, keys and values apart, heads before tokens.
    apart = then(
        "Reshape",
        node.input[0],
        constant(f"packed.{count}.{size}", [0, 0, 3, count, size], np.int64),
    )
    # [queries, keys and values, images, heads, tokens, floats]
    apart = then(
        "Transpose", apart, perm=[2, 1, 3, 0, 4] if tokens_first else [2, 0, 3, 1, 4]
    )
    queries, keys, values = (
        then("Gather", apart, constant(f"place.{place}", place, np.int64), axis=0)
        for place in range(3)
    )

    # 2. The products, each factor where it was in the original: elsewhere it would be
    # rounded otherwise.
    scales = found.get("scales", [1.0, 1.0, 1.0])
    keys = scaled(then("Transpose", keys, perm=[0, 1, 3, 2]), scales[1])
    scores = scaled(then("MatMul", scaled(queries, scales[0]), keys), scales[2])
    mixed = then("MatMul", then("Softmax", scores, axis=3), values)

    # 3. Heads side by side again, in the order of the input.
    mixed = then(
        "Transpose", mixed, perm=[2, 0, 1, 3] if tokens_first else [0, 2, 1, 3]
    )
    then(
        "Reshape",
        mixed,
        constant(f"joined.{count}.{size}", [0, 0, count * size], np.int64),
    )
    nodes[0].name, nodes[-1].output[0] = node.name, output
    return nodes
