"""What the nodes of a graph demand of its inputs: lengths that weights fix, tables that they index, roles of axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import inliner

from sparsify_fx.onnx_tools.shapes import Shape, infer_shapes, skeleton
from sparsify_fx.onnx_tools.signature import ports_of
from sparsify_fx.onnx_tools.view import attribute, input_of, subgraphs
from sparsify_fx.onnx_tools.weights import walk_graphs

BATCH, SEQUENCE, IMAGE = "batch", "sequence", "image"
"""Roles of axes, as readers tell them; `axis_roles` adds those that only shapes tell."""

_SAME_SHAPE = frozenset(
    (
        "Identity",
        "Cast",
        "Clip",
        "Relu",
        "Not",
        "Neg",
        "Abs",
        "QuantizeLinear",
        "DequantizeLinear",
    )
)
_SAME_VALUES = frozenset(
    ("Unsqueeze", "Squeeze", "Reshape", "Flatten", "Expand", "Slice", "Concat", "Split")
)
_SCALING = frozenset(("Add", "Sub", "Mul", "Div"))
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))

_MOST_NODES = 1_000_000

Axes = tuple[int, ...] | None
"""Which axis of the input each axis of a value is; None once its shape is another."""


@dataclass
class Use:
    """What is known of one input: `below`: its entries index a table of so many; `is_length`: entries are lengths."""

    lengths: dict[int, int] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    rank: int | None = None
    below: int | None = None
    is_length: bool = False


def uses_of(model: onnx.ModelProto) -> dict[str, Use]:
    """What the nodes that read each input of the model demand of it, followed through casts and transpositions.

    >>> make = onnx.helper
    >>> ids, y = make.make_tensor_value_info("ids", 7, [None]), make.make_tensor_value_info("y", 1, None)
    >>> table = make.make_tensor("table", 1, [5, 1], [0.0] * 5)
    >>> graph = make.make_graph([make.make_node("Gather", ["table", "ids"], ["y"])], "g", [ids], [y], [table])
    >>> uses_of(make.make_model(graph))["ids"].below
    5
    """
    # 1. A model without weights and calls, whose readers of every value are known by
    # name. Names of branches may hide others; a demand too many only makes a worse guess.
    bare = _inlined(skeleton(model))
    shapes, readers = infer_shapes(bare), defaultdict(list)
    for graph in walk_graphs(bare.graph):
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            for place, name in enumerate(node.input):
                readers[name].append((node, place))
    found = {}

    # 2. From each input along what keeps its entries, or at least its axes, noting what readers demand.
    for name, port in ports_of(model).items():
        found[name] = use = Use()
        # Several ways may lead to one value.
        seen: set[str] = set()
        work: list[tuple[str, Axes]] = [
            (name, None if port.dims is None else tuple(range(len(port.dims))))
        ]
        while work:
            value, axes = work.pop()
            if value in seen:
                continue
            seen.add(value)
            for node, place in readers[value]:
                if node.domain in ("", "ai.onnx", "com.microsoft"):
                    _note(use, node, place, axes, shapes, whole=value == name)
                    work.extend(_onward(node, place, axes, shapes))
    return found


def _inlined(bare: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions' nodes in place of their calls, unless these call themselves or become too many."""
    # Functions that call functions can double at each level: thirty of them are a billion nodes.
    if not bare.functions or _expanded(bare) > _MOST_NODES:
        return bare
    try:
        inlined: onnx.ModelProto = inliner.inline_local_functions(bare)
    except Exception:  # a damaged function: its calls stay opaque
        return bare
    return inlined


def _expanded(model: onnx.ModelProto) -> float:
    """The number of nodes once all functions are inlined; infinity when one calls itself."""
    bodies = {(each.domain, each.name): each.node for each in model.functions}
    counts: dict[tuple[str, str], float] = {}

    def count(node: onnx.NodeProto) -> float:
        key = (node.domain, node.op_type)
        inner = sum(sum(map(count, graph.node)) for graph in subgraphs(node))
        if key not in bodies:
            return 1 + inner
        # Each function is counted once. While its body is counted it counts as
        # infinite, which a call of itself then finds.
        if key not in counts:
            counts[key] = math.inf  # for as long as its own body is counted
            counts[key] = sum(map(count, bodies[key]))
        return counts[key]

    return sum(map(count, model.graph.node))


def _onward(
    node: onnx.NodeProto, place: int, axes: Axes, shapes: dict[str, Shape]
) -> Iterator[tuple[str, Axes]]:
    """The values that hold the same entries, or the same axes, after a node."""
    kind = node.op_type
    # 1. Same entries, same axes.
    if kind in _SAME_SHAPE and place == 0:
        yield node.output[0], axes
    # 2. Same entries, axes in another order; a permutation that does not fit is a damaged file's.
    elif kind == "Transpose":
        places = list(range(len(axes or ())))
        perm = list(attribute(node, "perm", places[::-1]))
        yield (
            node.output[0],
            tuple(axes[axis] for axis in perm)
            if axes and sorted(perm) == places
            else None,
        )
    # 3. Scaled and shifted, as pixels are in front of a network: the same axes, unless
    # the other operand has more of them.
    elif kind in _SCALING and axes is not None:
        other = shapes.get(node.input[1 - place]) if len(node.input) == 2 else None
        if other is not None and len(other) <= len(axes):
            yield node.output[0], axes
    # 4. Same entries in another shape: what they index can still be told, but of no axis anything.
    elif kind in _SAME_VALUES and (place == 0 or kind == "Concat"):
        for name in node.output:
            yield name, None


def _note(
    use: Use,
    node: onnx.NodeProto,
    place: int,
    axes: Axes,
    shapes: dict[str, Shape],
    *,
    whole: bool,
) -> None:
    """What this node, reading the value as its input number `place`, says about the model's input."""
    # 1. What the entries are: rows of a table, or lengths of sequences.
    if node.op_type == "Gather" and place == 1:
        _below(use, shapes.get(node.input[0]), int(attribute(node, "axis", 0)))
    elif node.op_type == "EmbedLayerNormalization" and place < 2:
        _below(use, shapes.get(input_of(node, 2 if place == 0 else 4)), 0)
    elif node.op_type in _RECURRENT and place == 4:
        use.is_length = True

    # 2. What the shape must be. A rank counts only where the node reads the input
    # itself, and not what became of it.
    rank, lengths, roles = _demands(node, place, shapes)
    if rank is None:
        return
    if whole and use.rank is None:
        use.rank = rank
        axes = tuple(range(rank)) if axes is None else axes
    if axes is None or len(axes) != rank:
        return

    # 3. Told of the input's own axes. The first reader counts: two that contradict each
    # other are no model that runs.
    for axis, length in lengths.items():
        if isinstance(length, int) and length > 0:
            use.lengths.setdefault(axes[axis], length)
    for axis, role in roles.items():
        use.roles.setdefault(axes[axis], role)


def _below(use: Use, table: Shape | None, axis: int) -> None:
    # The smallest table counts, as an index must be valid in all.
    rows = table[axis] if table and -len(table) <= axis < len(table) else None
    if isinstance(rows, int) and rows > 0:
        use.below = min(rows, use.below or rows)


Demands = tuple[int | None, dict[int, object], dict[int, str]]


def _demands(node: onnx.NodeProto, place: int, shapes: dict[str, Shape]) -> Demands:
    """The rank that the node needs of its input, lengths of axes, and roles of axes; a rank of None says nothing."""
    kind, weight = node.op_type, shapes.get(input_of(node, 1)) or ()
    if (
        kind in ("Conv", "ConvInteger", "ConvTranspose")
        and place == 0
        and len(weight) > 2
    ):
        # 1. Convolutions: W is [outputs, inputs / groups, ...], transposed ones [inputs, ...].
        channels = weight[0] if kind == "ConvTranspose" else weight[1]
        groups = int(attribute(node, "group", 1)) if kind != "ConvTranspose" else 1
        channels = channels * groups if isinstance(channels, int) else None
        # Colors or gray: an image. Other channels are features, along what may be anything.
        role = IMAGE if len(weight) == 4 and channels in (1, 3, 4) else SEQUENCE
        return (
            len(weight),
            {1: channels},
            {0: BATCH} | dict.fromkeys(range(2, len(weight)), role),
        )

    # 2. Gemm: [batch, inputs].
    if (
        kind == "Gemm"
        and place == 0
        and len(weight) == 2
        and not attribute(node, "transA", 0)
    ):
        return 2, {1: weight[1 if attribute(node, "transB", 0) else 0]}, {0: BATCH}
    # 3. Recurrent layers: the data, and the states that they start from.
    if kind in _RECURRENT and place in (0, 5, 6) and len(weight) == 3:
        return _recurrent(node, place, weight, shapes)
    # 4. MatMul: the last axis, on as many axes as inference knows, else two.
    if kind == "MatMul" and place == 0 and len(weight) == 2:
        rank = len(shapes.get(node.input[0]) or (0, 0))
        return rank, {rank - 1: weight[0]} if rank else {}, {}
    return None, {}, {}


def _recurrent(
    node: onnx.NodeProto, place: int, weight: Shape, shapes: dict[str, Shape]
) -> Demands:
    """Sequences [steps, batch, features] and states [directions, batch, hidden], or with layout 1 the batch first."""
    hidden = (shapes.get(input_of(node, 2)) or (None,) * 3)[-1]
    first = bool(attribute(node, "layout", 0))
    if place == 0:
        return (
            3,
            {2: weight[2]},
            {0: BATCH, 1: SEQUENCE} if first else {0: SEQUENCE, 1: BATCH},
        )
    return 3, {1 if first else 0: weight[0], 2: hidden}, {0 if first else 1: BATCH}
