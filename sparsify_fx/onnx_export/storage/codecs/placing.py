"""Put the parts of all weights into a graph: as plain nodes, or as one call of a local function for each weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, SHARED, Parts, renamed
from sparsify_fx.onnx_export.storage.codecs.rounds import (
    beginning,
    beginnings,
    delayed,
    in_rounds,
    late,
)

DOMAIN = "sparsify_fx"
"""The domain of our local functions."""


@dataclass
class Placed:
    """What the weights of a file add to its graph; `functions` has one entry for each different way to rebuild one.

    `tensors`: pairs of name and array.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[tuple[str, NDArray[Any]]] = field(default_factory=list)
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list)
    functions: dict[bytes, onnx.FunctionProto] = field(default_factory=dict)

    def move_tensors(self, graph: onnx.GraphProto) -> None:
        """Make the arrays initializers of the graph, each freed before the next is copied."""
        self.tensors.reverse()
        while self.tensors:
            name, array = self.tensors.pop()
            graph.initializer.add().CopyFrom(numpy_helper.from_array(array, name))


@dataclass(frozen=True)
class Stored:
    """A weight to place: its name, how it is stored as a word for functions, its entries and its parts."""

    name: str
    how: str
    size: int
    parts: Parts


def place(
    weights: Sequence[Stored],
    prefix: str,
    opset: int,
    *,
    functions: bool,
    rounds: bool = False,
) -> Placed:
    """The nodes, tensors and functions for these weights; with `rounds`, large ones are rebuilt one after the other.

    Values of the weights get names of their own that start with `prefix`, which no value of the graph may; the
    rebuilt weight keeps its name. With `functions` every weight is one node, whose function viewers can open. The
    arrays are moved out of the parts.
    """
    placed, shared, shared_nodes = (
        Placed(),
        dict[str, NDArray[np.generic]](),
        dict[str, onnx.NodeProto](),
    )
    # Kept apart, since the nodes on shared values have to come before those of any
    # weight.
    ours: list[onnx.NodeProto] = []
    awaited: dict[int, set[str]] = {}

    # 1. Rounds are for weights that can be made to wait: the others read no shared table.
    waiting = [weight.size if rounds and weight.parts.late else 0 for weight in weights]
    turns = in_rounds(waiting)
    for number, (weight, turn) in enumerate(zip(weights, turns, strict=True)):
        parts = weight.parts

        # 2. Names: local ones get the weight's number, shared ones are the same for all,
        # and in a later round the delayed ones.
        names = {local: f"{prefix}{number}.{local}" for local in _locals(parts)} | {
            OUTPUT: weight.name
        }
        names |= {
            value: _everywhere(prefix, value)
            for value in parts.inputs
            if value.startswith(SHARED)
        }
        if turn:
            awaited.setdefault(turn, set()).update(parts.late)
            names |= {
                value: late(_everywhere(prefix, value), turn) for value in parts.late
            }
        # Moved out of the parts, so that each array can be freed once it is in the graph.
        placed.tensors += [
            (names[local], parts.tensors.pop(local)) for local in list(parts.tensors)
        ]
        if parts.sparse is not None:
            parts.sparse.values.name = names[parts.sparse.values.name]
            placed.sparse.append(parts.sparse)
        if functions and parts.nodes:
            ours.append(_call(placed, weight, names, opset))
        else:
            ours += renamed(parts.nodes, names)
        shared |= parts.shared
        shared_nodes |= parts.shared_nodes

    # 3. Shared values once, whichever weights brought them.
    everywhere = {
        value: _everywhere(prefix, value) for value in (*shared, *shared_nodes)
    }
    placed.nodes = renamed(shared_nodes.values(), everywhere)

    # 4. For each later round the copies of tables that are known only when it begins.
    if awaited:
        nodes, shared[SHARED + beginning("", 0)] = beginnings(prefix, max(awaited))
        placed.nodes += nodes
        for turn, values in sorted(awaited.items()):
            scalars = [
                (everywhere[value], value in shared and not shared[value].ndim)
                for value in sorted(values)
            ]
            placed.nodes += delayed(prefix, turn, scalars)
    placed.tensors += [
        (_everywhere(prefix, value), array) for value, array in shared.items()
    ]
    placed.nodes += ours
    return placed


def _everywhere(prefix: str, value: str) -> str:
    """The name of a shared value in the graph."""
    return prefix + value.removeprefix(SHARED)


def _locals(parts: Parts) -> set[str]:
    """The local names of a weight's values."""
    made: set[str] = set()
    for node in parts.nodes:
        made.update(node.output)
    sparse = set() if parts.sparse is None else {parts.sparse.values.name}
    return made | set(parts.tensors) | sparse


def _role(value: str) -> str:
    """The name of an input inside a function: its own, or `const_` and the role of a shared value."""
    return (
        f"const_{value.removeprefix(SHARED).partition('.')[0]}"
        if value.startswith(SHARED)
        else value
    )


def _call(
    placed: Placed, weight: Stored, names: dict[str, str], opset: int
) -> onnx.NodeProto:
    """A call of the function that rebuilds this weight, added to `placed` unless an equal one is there."""
    parts, name, how = weight.parts, weight.name, weight.how
    inputs = parts.inputs
    # Without sizes and shapes in the names, weights that are stored alike share one function.
    short = {value: _role(value) for value in inputs}
    body = renamed(parts.nodes, short)
    given = _take_out_kernels(body)
    # The opset of the model, in which the nodes were made.
    imports = [helper.make_opsetid("", opset)]
    function = helper.make_function(
        DOMAIN, "", list(short.values()), [OUTPUT], body, imports, list(given)
    )
    # Compared without a name, so that equal bodies are found whatever they are called.
    key = function.SerializeToString(deterministic=True)
    if key not in placed.functions:
        # Bodies of one encoding may still differ, e.g. with patches or without, and names
        # must be unique in the domain.
        alike = sum(other.name.startswith(how) for other in placed.functions.values())
        function.name = how if not alike else f"{how}_{alike + 1}"
        placed.functions[key] = function
    operator = placed.functions[key].name
    return helper.make_node(
        operator,
        [names[value] for value in inputs],
        [name],
        name=name,
        domain=DOMAIN,
        **given,  # type: ignore[arg-type]
    )


def _take_out_kernels(body: Iterable[onnx.NodeProto]) -> dict[str, list[int]]:
    """Make a kernel's shape, which depends on the weight's size, an attribute of the function; returns its value."""
    given: dict[str, list[int]] = {}
    for node in body:
        for attribute in node.attribute:
            if attribute.name == "kernel_shape":
                given[attribute.name] = list(attribute.ints)
                # An attribute that refers to one of the function must not hold a value
                # itself.
                del attribute.ints[:]
                attribute.ref_attr_name = attribute.name
    return given
