"""Operators that move values and compute none: what they do, found by sending numbers through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of, is_standard
from sparsify_fx.runtime.fusion.fuse import Arrays

MOVES = (
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "Slice",
    "Split",
)
# What computes the sizes that those read, beside themselves.
SIZES = ("Shape", "Concat", "Cast", "Add", "Sub", "Mul", "Div")
_CUTS = {"Gather": 0, "Split": 0, "Slice": 3}
"""Those that take a part of an axis: where they name it, an input or else the attribute `axis`."""


@dataclass(frozen=True)
class Path:
    """How a value comes out of an earlier one: all values on the way, the last one it, and the nodes between them."""

    values: tuple[str, ...]
    nodes: tuple[NodeProto, ...]

    def following(self, name: str) -> Path:
        """The part of the path that begins with this value."""
        place = self.values.index(name)
        return Path(self.values[place:], self.nodes[place:])

    def factor(self, constants: Arrays) -> float:
        """What is multiplied on the way."""
        found = (scaling(node, constants) for node in self.nodes)
        return float(
            np.prod(
                [scaled[1] for scaled in found if scaled is not None], dtype=np.float32
            )
        )


def path_to(
    name: str, view: GraphView, constants: Arrays, kinds: tuple[str, ...] = MOVES
) -> Path:
    """The longest path to a value on which it is only moved, by these operators, and multiplied by constants."""
    values, nodes = [name], list[NodeProto]()
    while (node := view.producers.get(values[0])) is not None:
        scaled = scaling(node, constants)
        if scaled is None and not is_standard(node, *kinds):
            break
        values.insert(0, node.input[0] if scaled is None else scaled[0])
        nodes.insert(0, node)
    return Path(tuple(values), tuple(nodes))


def scaling(node: NodeProto, constants: Arrays) -> tuple[str, np.float32] | None:
    """What a node multiplies by a constant number, and the number; None for any other node."""
    if not is_standard(node, "Mul", "Div"):
        return None
    # A product may have its constant on either side; of a quotient only the divisor is a
    # scale.
    for place in (1, 0) if node.op_type == "Mul" else (1,):
        number = constants.get(node.input[place])
        if (
            number is not None
            and number.dtype == np.float32
            and number.size == 1
            and number.ndim <= 1
        ):
            value = np.float32(number.item())
            # Zero or infinity would not be a scale that could be applied elsewhere
            # instead.
            if np.isfinite(value) and value != 0:
                return node.input[
                    1 - place
                ], value if node.op_type == "Mul" else np.float32(1 / value)
    return None


def cuts_known_axes(
    nodes: Iterable[NodeProto], shapes: Mapping[str, Shape], constants: Arrays
) -> bool:
    """Whether nodes that take a part of an axis do so where its length is known, and not open."""
    for node in nodes:
        if is_standard(node, *_CUTS):
            # With an open length a cut may fall elsewhere in the next run, and two trials
            # prove nothing for all lengths.
            shape, place = shapes.get(node.input[0]), _CUTS[node.op_type]
            axes = (
                constants.get(input_of(node, place))
                if place
                else np.array([attribute(node, "axis", 0)])
            )
            if (
                shape is None
                or axes is None
                or not all(isinstance(shape[int(axis)], int) for axis in axes.ravel())
            ):
                return False
    return True


@dataclass(frozen=True)
class Moved:
    """Values that came out of others, and the nodes that made them."""

    arrays: tuple[NDArray[np.int32], ...]
    nodes: tuple[NodeProto, ...]


def send(
    given: Mapping[str, NDArray[np.int32]],
    wanted: Sequence[str],
    view: GraphView,
    constants: Arrays,
    shapes: Mapping[str, tuple[int, ...]],
) -> Moved | None:
    """What `wanted` are when `given` are these numbers; None when other operators than moves lie between them.

    Factors count as 1. `shapes` are those of other values, whose sizes may be read.
    """
    # 1. What lies between: all nodes from `wanted` back to `given`, which may be moves,
    # and what computes their sizes.
    dependent = _dependent_on(given, view)
    feed, used, nodes = dict(given), set(), dict[int, NodeProto]()
    waiting, seen = list(wanted), {"", *given}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = view.producers.get(name)
        if name in constants:
            used.add(name)
        elif node is None or not is_standard(node, *MOVES, *SIZES):
            return None
        else:
            nodes[id(node)] = node
            if (
                is_standard(node, "Shape")
                and node.input[0] not in dependent
                and node.input[0] in shapes
            ):
                feed[node.input[0]] = np.zeros(shapes[node.input[0]], np.int32)
                seen.add(node.input[0])
            waiting += node.input

    # 2. They run as they are: no rule of ours has to know what a Reshape with -1 or a
    # Slice with steps does.
    order = tuple(node for node in view.nodes if id(node) in nodes)
    arrays = _run(feed, wanted, order, {name: constants[name] for name in used}, view)
    return None if arrays is None else Moved(arrays, order)


def _dependent_on(names: Iterable[str], view: GraphView) -> set[str]:
    """These values and all that depend on them."""
    dependent = set(names)
    for node in view.nodes:
        if not dependent.isdisjoint(node.input):
            dependent.update(node.output)
    return dependent


def _run(
    feed: Mapping[str, NDArray[np.int32]],
    wanted: Sequence[str],
    nodes: Sequence[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    view: GraphView,
) -> tuple[NDArray[np.int32], ...] | None:
    """The nodes in onnxruntime, which has the last word on what they do; None where it refuses them."""
    # Numbers are places here, so factors must not change them.
    plain = [_unscaled(node, constants) for node in nodes]
    given = [
        helper.make_tensor_value_info(name, TensorProto.INT32, array.shape)
        for name, array in feed.items()
    ]
    results = [
        helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in wanted
    ]
    weights = [
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in constants.items()
    ]
    graph = helper.make_graph(plain, "moves", given, results, weights)
    opsets = [
        opset for opset in view.model.opset_import if opset.domain in ("", "ai.onnx")
    ]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=view.model.ir_version
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return tuple(session.run(list(wanted), dict(feed)))
    except Exception:
        # Sizes that do not fit, or a form of an operator that onnxruntime does not know.
        return None


def _unscaled(node: NodeProto, constants: Arrays) -> NodeProto:
    scaled = scaling(node, constants)
    return (
        node
        if scaled is None
        else helper.make_node("Identity", [scaled[0]], node.output)
    )
