"""Large weights in rounds: onnxruntime rebuilds one group after the other and lets go of what rebuilding needs between.

onnxruntime folds constants in passes over the graph, and drops values that nothing reads any more only at the end of a
pass: within one, everything that rebuilding computes is held, several times the weights. The weights of a later round
read their tables through an `Expand` to a shape that is not known before the next pass: it is the length of what a
`Scan` gives, and the shapes of nodes with bodies are worked out between passes only. Any runtime that knows the shapes
earlier computes the same in fewer passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

ENOUGH = 2**22
"""Entries of all rebuilt weights, 16 MB as float32, from which rounds are worth their nodes."""

_SHARES = (27, 18, 12, 8)
"""Of the entries in each round: the more is rebuilt, the less may be held besides."""


def in_rounds(sizes: Sequence[int]) -> list[int]:
    """The round, from 0, of each weight with this number of entries; the largest come first, what has none in round 0.

    >>> in_rounds([4_000_000, 6_000_000, 3_000_000]), in_rounds([10, 20])
    ([1, 0, 2], [0, 0])
    """
    found, total, done = [0] * len(sizes), sum(sizes), 0
    if total < ENOUGH:
        return found
    ends = [total * end / sum(_SHARES) for end in accumulate(_SHARES[:-1])]
    # The largest first, while little else is held; a weight counts with the round in
    # which its middle lies.
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        # The very first stays in round 0 however large it is: without one, the first pass
        # would rebuild nothing.
        if done and sizes[place]:
            found[place] = sum(done + sizes[place] / 2 > end for end in ends)
        done += sizes[place]
    # A large weight may skip rounds, and each round costs nodes and a pass.
    used = sorted(set(found))
    return [used.index(turn) for turn in found]


def beginnings(
    prefix: str, rounds: int
) -> tuple[list[onnx.NodeProto], NDArray[np.int64]]:
    """The nodes that make `beginning(prefix, i)` for rounds 1 to `rounds`, and the initializer for round 0: always [1].

    Abs is there because shapes are passed on through shape operators before anything is folded.
    """
    nodes: list[onnx.NodeProto] = []
    for number in range(1, rounds + 1):
        name = beginning(prefix, number)
        ends = [
            helper.make_tensor_value_info(f"{name}.{end}", onnx.TensorProto.FLOAT, [])
            for end in ("i", "o")
        ]
        # The Scan passes on the one zero that it gets. onnxruntime works out the shapes
        # of nodes with bodies between passes only, so the length of its result is not
        # known before the next one.
        body = helper.make_graph(
            [helper.make_node("Identity", [ends[0].name], [ends[1].name])],
            "same",
            *_ends(ends),
        )
        nodes += [
            helper.make_node("Abs", [beginning(prefix, number - 1)], [f"{name}.a"]),
            helper.make_node("ConstantOfShape", [f"{name}.a"], [f"{name}.b"]),
            helper.make_node(
                "Scan", [f"{name}.b"], [f"{name}.c"], body=body, num_scan_inputs=1
            ),
            helper.make_node("Shape", [f"{name}.c"], [name]),
        ]
    return nodes, np.ones(1, np.int64)


def _ends(
    ends: list[onnx.ValueInfoProto],
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    return ends[:1], ends[1:]


def beginning(prefix: str, number: int) -> str:
    """The value [1] that is known once round `number` begins."""
    return f"{prefix}turn{number}"


def delayed(
    prefix: str, number: int, values: Iterable[tuple[str, bool]]
) -> list[onnx.NodeProto]:
    """Nodes that make `late(value, number)`, equal to the value, for (value, whether it is an integer without axes)."""
    start, nodes = beginning(prefix, number), list[onnx.NodeProto]()
    for value, scalar in values:
        # Expand would give a number without axes one axis, so it is multiplied by 1
        # instead.
        if scalar:
            nodes += [
                helper.make_node("Squeeze", [start], [f"{start}.{len(nodes)}"]),
                helper.make_node(
                    "Mul", [value, f"{start}.{len(nodes)}"], [late(value, number)]
                ),
            ]
        else:
            nodes.append(
                helper.make_node("Expand", [value, start], [late(value, number)])
            )
    return nodes


def late(value: str, number: int) -> str:
    """The name under which weights of round `number` read a shared value."""
    return f"{value}.{number}"
