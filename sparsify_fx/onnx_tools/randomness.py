"""Operators of a model that draw random numbers, and outputs that therefore differ from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from sparsify_fx.onnx_tools.values import UnlikeError, measure_difference
from sparsify_fx.onnx_tools.view import attribute, input_of, is_standard
from sparsify_fx.onnx_tools.weights import all_nodes

RANDOM = frozenset(
    (
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Dropout",
    )
)
"""Operators that may answer twice differently."""


def random_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that draw random numbers, in the graph, in subgraphs and in functions.

    >>> node = onnx.helper.make_node("RandomNormal", [], ["y"], shape=[2])
    >>> model = onnx.ModelProto(graph=onnx.helper.make_graph([node], "g", [], []))
    >>> [node.op_type for node in random_nodes(model)]
    ['RandomNormal']
    """
    found = list(filter(_draws, all_nodes(model.graph.node)))
    for function in model.functions:
        found += filter(_draws, all_nodes(function.node))
    return found


def _draws(node: onnx.NodeProto) -> bool:
    """Whether the node is random as it stands: Dropout is only when told that it trains."""
    # Input 2 is `training_mode`; without it Dropout passes its input on, from opset 7.
    return is_standard(node, *RANDOM) and (
        node.op_type != "Dropout" or bool(input_of(node, 2))
    )


def is_seeded(nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether all of them draw from seeds of their own: a new session then repeats what the last one drew."""
    # Without the attribute onnxruntime draws the seed itself.
    return all(attribute(node, "seed") is not None for node in nodes)


def unlike_outputs(
    names: Sequence[str], first: Sequence[Any], second: Sequence[Any], limit: float
) -> set[str]:
    """The outputs that differ between two runs by more than `limit`, relative to their largest entry.

    >>> import numpy as np
    >>> unlike_outputs(["a", "b"], [np.ones(2), np.ones(2)], [np.ones(2), np.zeros(2)], 1e-4)
    {'b'}
    """
    return {
        name
        for name, a, b in zip(names, first, second, strict=True)
        if distance(a, b) > limit
    }


def distance(expected: Any, got: Any) -> float:
    """The relative difference of `measure_difference`; infinity where there is none."""
    try:
        # Where shapes, types or texts differ no number is large enough.
        return measure_difference(expected, got)[1]
    except UnlikeError:
        return float("inf")
