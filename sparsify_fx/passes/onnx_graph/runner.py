"""`optimize`: all passes over an ONNX graph, to a fixed point, with a proof that the outputs stay."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from sparsify_fx.errors import PassError
from sparsify_fx.passes.onnx_graph.base import GraphPass, PassRow
from sparsify_fx.passes.onnx_graph.channels import DEAD_CHANNELS, UNREAD_CHANNELS
from sparsify_fx.passes.onnx_graph.common_subexpressions import COMMON_SUBEXPRESSIONS
from sparsify_fx.passes.onnx_graph.constant_branches import CONSTANT_BRANCHES
from sparsify_fx.passes.onnx_graph.drop_identities import DROP_IDENTITIES
from sparsify_fx.passes.onnx_graph.drop_unused import DROP_UNUSED
from sparsify_fx.passes.onnx_graph.fold_batch_norm import FOLD_BATCH_NORM
from sparsify_fx.passes.onnx_graph.fold_before import FOLD_BEFORE
from sparsify_fx.passes.onnx_graph.fold_constants import FOLD_CONSTANTS
from sparsify_fx.passes.onnx_graph.macs import count_channels, count_macs
from sparsify_fx.passes.onnx_graph.outside import count_bytes
from sparsify_fx.passes.onnx_graph.proof import Feed, difference, random_feeds, sensitivity
from sparsify_fx.passes.onnx_graph.shapes import shapes_fit

PASSES = (
    FOLD_CONSTANTS,
    DROP_IDENTITIES,
    COMMON_SUBEXPRESSIONS,
    FOLD_BATCH_NORM,
    FOLD_BEFORE,
    UNREAD_CHANNELS,
    DEAD_CHANNELS,
    CONSTANT_BRANCHES,
    DROP_UNUSED,
)
"""All passes, in the order in which they run."""

TOLERANCE = 1e-5
"""The largest difference that is put down to float32 rounding, relative to the largest entry of an output."""

_MARGIN = 10.0
"""Where more differs, as many times the model's `sensitivity` may, but never more than `_MOST`."""
_MOST = 1e-2
"""Where rounding makes more than that, outputs prove nothing."""

_ROUNDS = 50


def optimize(
    model: onnx.ModelProto,
    passes: Sequence[GraphPass] = PASSES,
    *,
    prove: bool = True,
    inputs: Feed | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> tuple[onnx.ModelProto, tuple[PassRow, ...]]:
    """Run `passes` in turn until none changes anything; the rewritten copy, and what each pass removed.

    `model` is not changed; where nothing is to be done the very same object comes back. Names, shapes and order of the
    graph's inputs and outputs stay, and so does a dynamic batch.

    Args:
        prove: compare both models in onnxruntime on `inputs`, or on random ones drawn from `seed`.
        inputs: an array per graph input; needed when the model does not run on random numbers.
        tolerance: the largest accepted difference, relative to the largest entry of an output; or ten times what the
            weights' last places make of the model itself, at most 1e-2, where that is more.

    Raises PassError, which names the pass, when a pass breaks the graph, its shapes or its results, and when the model
    runs on none of the inputs.

    >>> make = onnx.helper
    >>> x, y = (make.make_tensor_value_info(name, 1, ["N", 2]) for name in "xy")
    >>> nodes = [make.make_node("Identity", ["x"], ["z"]), make.make_node("Relu", ["z"], ["y"])]
    >>> graph = make.make_graph(nodes, "g", [x], [y])
    >>> model = make.make_model(graph, ir_version=10, opset_imports=[make.make_opsetid("", 18)])
    >>> smaller, rows = optimize(model)
    >>> [node.op_type for node in smaller.graph.node], [row.name for row in rows if row.changes]
    (['Relu'], ['drop-identities'])
    """
    work = onnx.ModelProto()
    work.CopyFrom(model)
    sound = shapes_fit(model) is None
    tally = _Tally(work)
    for _ in range(_ROUNDS):
        changed = [_run(one, work, model, tally, sound) for one in passes]
        if not any(changed):
            break
    else:
        raise PassError(f"{', '.join(map(str, passes))}: no fixed point after {_ROUNDS} rounds; report a bug")
    rows = tally.rows(passes)
    if not any(row.changes for row in rows):
        return model, rows
    if prove:
        _prove(model, work, passes, [inputs] if inputs is not None else random_feeds(model, seed), tolerance)
    return work, rows


class _Tally:
    """What has been removed so far, by pass."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.last = self.measure(model)
        self.removed: dict[str, list[int]] = {}

    @staticmethod
    def measure(model: onnx.ModelProto) -> tuple[int, ...]:
        """Nodes, channels, MACs and bytes."""
        return len(model.graph.node), count_channels(model), count_macs(model), count_bytes(model)

    def add(self, name: str, model: onnx.ModelProto) -> None:
        """Book the difference to the last state on the pass of this name."""
        now, sums = self.measure(model), self.removed.setdefault(name, [0] * 5)
        self.removed[name] = [sums[0] + 1, *(s + a - b for s, a, b in zip(sums[1:], self.last, now, strict=True))]
        self.last = now

    def rows(self, passes: Sequence[GraphPass]) -> tuple[PassRow, ...]:
        """One row a pass."""
        return tuple(PassRow(one.name, *self.removed.get(one.name, [0] * 5)) for one in passes)


def _run(one: GraphPass, work: onnx.ModelProto, original: onnx.ModelProto, tally: _Tally, sound: bool) -> bool:
    """Run one pass in place and check what it left."""
    if not one.run(work):
        return False
    _check(one, work, original, sound)
    tally.add(one.name, work)
    return True


def _check(one: GraphPass, work: onnx.ModelProto, original: onnx.ModelProto, sound: bool) -> None:
    """The graph is in order, its interface the same, its shapes as consistent as they were."""
    graph = work.graph
    if list(graph.input) != list(original.graph.input) or list(graph.output) != list(original.graph.output):
        raise PassError(f"{one}: expected the inputs and outputs to stay as they are; report a bug")
    known = {item.name for item in (*graph.input, *graph.initializer)}
    known |= {item.values.name for item in graph.sparse_initializer} | {""}
    for node in graph.node:
        missing = [name for name in node.input if name not in known]
        if missing:
            raise PassError(
                f"{one}: node {node.name or node.op_type} reads {missing}, which nothing makes; report a bug"
            )
        known.update(node.output)
    missing = [item.name for item in graph.output if item.name not in known]
    if missing:
        raise PassError(f"{one}: nothing makes the outputs {missing} any more; report a bug")
    complaint = shapes_fit(work) if sound else None
    if complaint is not None:
        raise PassError(f"{one}: the shapes no longer fit: {complaint}; report a bug")


def _prove(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    passes: Sequence[GraphPass],
    feeds: Sequence[Feed],
    tolerance: float,
) -> None:
    """Compare before and after; when they differ, find the pass that did it."""
    found = difference(before, after, feeds)
    if found <= tolerance or found <= (tolerance := max(tolerance, min(_MOST, _MARGIN * sensitivity(before, feeds)))):
        return
    work = onnx.ModelProto()
    work.CopyFrom(before)
    for one in list(passes) * 2:
        previous = onnx.ModelProto()
        previous.CopyFrom(work)
        step = difference(previous, work, feeds, one.name) if one.run(work) else 0.0
        if step > tolerance:
            raise PassError(f"{one}: changed the outputs by {step:.2g} of the largest entry; expected {tolerance:g}")
    raise PassError(f"passes: changed the outputs by {found:.2g} of the largest entry; expected {tolerance:g}")
