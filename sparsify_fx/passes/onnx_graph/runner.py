"""`optimize`: all passes over an ONNX graph, to a fixed point, with a proof that the outputs stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx

from sparsify_fx.errors import PassError, PassWarning, warn
from sparsify_fx.onnx_tools.outside import count_bytes
from sparsify_fx.onnx_tools.shapes import shapes_fit
from sparsify_fx.onnx_tools.soundness import damaged_tensor, damaged_text
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
from sparsify_fx.passes.onnx_graph.proof import Feed, Reference, proof_feeds

_LOG = logging.getLogger(__name__)

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
"""All passes, in the order in which they run; it decides nothing but how many rounds are needed.

Constants come first, since all others read them; duplicates and identities hide pairs that can be folded; folded norms
leave fewer operators for channels to be followed through; what lost its readers goes at the end of each round.
"""

TOLERANCE = 1e-5
"""The largest difference that is put down to float32 rounding, relative to the largest entry of an output."""

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
        inputs: an array per graph input, lists and dicts for sequences and maps; needed when the model does not run on
            made-up ones.
        tolerance: the largest accepted difference, relative to the largest entry of an output; or, where that is more
            and at most 1e-2, ten times what the weights' last places make of that output of the model itself, or what
            onnxruntime's own optimizations make of it.

    A pass that fails, that breaks the graph or its shapes, or that changes the results is left out, with a PassWarning
    and a `note` in its row; so is one after which only outputs are left that rounding decides. Raises PassError when
    the model is damaged, does not load or runs on none of the inputs.

    >>> make = onnx.helper
    >>> x, y = (make.make_tensor_value_info(name, 1, ["N", 2]) for name in "xy")
    >>> nodes = [make.make_node("Identity", ["x"], ["z"]), make.make_node("Relu", ["z"], ["y"])]
    >>> graph = make.make_graph(nodes, "g", [x], [y])
    >>> model = make.make_model(graph, ir_version=10, opset_imports=[make.make_opsetid("", 18)])
    >>> smaller, rows = optimize(model)
    >>> [node.op_type for node in smaller.graph.node], [row.name for row in rows if row.changes]
    (['Relu'], ['drop-identities'])
    """
    if (reason := damaged_text(model) or damaged_tensor(model)) is not None:
        raise PassError(
            f"passes: the model is damaged: {reason}; write or download it again"
        )
    # A model that strict inference refuses as it is given may be a valid one that onnx
    # does not understand; then no pass is blamed for the same complaint.
    sound = shapes_fit(model) is None
    notes: dict[str, str] = {}
    reference: Reference | None = None
    while True:
        # 1. Run all passes but those found at fault, on a copy made anew: what a faulty
        # pass did cannot be taken back out of a graph that others have rewritten since.
        taken = [one for one in passes if one.name not in notes]
        try:
            work, tally = _to_the_end(model, taken, sound)
            if not tally.removed:
                return model, tally.rows(passes, notes)
            if not prove:
                return work, tally.rows(passes, notes)
            # 2. Prove it. The original runs once, however often passes have to be left out.
            reference = reference or Reference(model, proof_feeds(model, inputs, seed))
            _LOG.info(
                "passes: %d nodes become %d; proving it",
                len(model.graph.node),
                len(work.graph.node),
            )
            _prove(reference, work, taken, tolerance)
        except _FaultError as fault:
            # 3. Leave out the pass at fault and start again. Each turn takes one pass away, so this ends.
            notes[fault.name] = f"left out: {fault}"
            warn(
                f"{fault.name}: left out of the passes over the graph: {fault}",
                PassWarning,
            )
            continue
        return work, tally.rows(passes, notes)


class _FaultError(Exception):
    """A pass, by its name, that must be left out."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


def _to_the_end(
    model: onnx.ModelProto, passes: Sequence[GraphPass], sound: bool
) -> tuple[onnx.ModelProto, _Tally]:
    """A copy of the model after all passes, in turn until none changes anything, and what they removed."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    tally = _Tally(work)
    # One pass makes work for another (a folded constant is a weight that can be sliced), so they
    # run in turn; a pass that says truthfully that it changed nothing cannot keep this going.
    for _ in range(_ROUNDS):
        changed = [one for one in passes if _run(one, work, model, tally, sound)]
        if not changed:
            return work, tally
    raise _FaultError(
        changed[-1].name, f"no fixed point after {_ROUNDS} rounds; report a bug"
    )


class _Tally:
    """What has been removed so far, by pass."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.last = self.measure(model)
        self.removed: dict[str, list[int]] = {}

    @staticmethod
    def measure(model: onnx.ModelProto) -> tuple[int, ...]:
        """(nodes, channels, MACs, bytes), as in the rows."""
        return (
            len(model.graph.node),
            count_channels(model),
            count_macs(model),
            count_bytes(model),
        )

    def add(self, name: str, model: onnx.ModelProto) -> None:
        """Book the difference to the last state on the pass of this name."""
        # Called where a pass changed something, not for each that ran: counting means
        # shape inference over the whole graph.
        now, sums = self.measure(model), self.removed.setdefault(name, [0] * 5)
        self.removed[name] = [
            sums[0] + 1,
            *(s + a - b for s, a, b in zip(sums[1:], self.last, now, strict=True)),
        ]
        self.last = now

    def rows(
        self, passes: Sequence[GraphPass], notes: Mapping[str, str]
    ) -> tuple[PassRow, ...]:
        """One row for each of `passes`, in their order, with zeros for those that changed nothing."""
        found = []
        for one in passes:
            changes, nodes, channels, macs, size = self.removed.get(one.name, [0] * 5)
            note = notes.get(one.name, "")
            found.append(PassRow(one.name, changes, nodes, channels, macs, size, note))
        return tuple(found)


def _run(
    one: GraphPass,
    work: onnx.ModelProto,
    original: onnx.ModelProto,
    tally: _Tally,
    sound: bool,
) -> bool:
    """Run one pass in place and check what it left."""
    try:
        if not one.run(work):
            return False
    except Exception as error:  # of a damaged model, or of a pass of others
        raise _FaultError(
            one.name, f"it failed: {type(error).__name__}: {error}"
        ) from error
    _check(one, work, original, sound)
    _LOG.debug(
        "%s changed the graph, which has %d nodes now", one.name, len(work.graph.node)
    )
    tally.add(one.name, work)
    return True


def _check(
    one: GraphPass, work: onnx.ModelProto, original: onnx.ModelProto, sound: bool
) -> None:
    """The graph is in order, its interface the same, its shapes as consistent as they were."""
    # 1. The interface: callers feed and read by these names, types and shapes.
    graph = work.graph
    if list(graph.input) != list(original.graph.input) or list(graph.output) != list(
        original.graph.output
    ):
        raise _FaultError(
            one.name,
            "expected the inputs and outputs to stay as they are; report a bug",
        )

    # 2. Topological order: at each node all it reads must have been made. "" stands for
    # an input that is left out.
    known = {item.name for item in (*graph.input, *graph.initializer)}
    known |= {item.values.name for item in graph.sparse_initializer} | {""}
    for node in graph.node:
        missing = [name for name in node.input if name not in known]
        if missing:
            raise _FaultError(
                one.name,
                f"node {node.name or node.op_type} reads {missing}, which nothing makes; report a bug",
            )
        known.update(node.output)

    # 3. The outputs are still made.
    missing = [item.name for item in graph.output if item.name not in known]
    if missing:
        raise _FaultError(
            one.name, f"nothing makes the outputs {missing} any more; report a bug"
        )

    # 4. Shapes, where they fitted before.
    complaint = shapes_fit(work) if sound else None
    if complaint is not None:
        raise _FaultError(
            one.name, f"the shapes no longer fit: {complaint}; report a bug"
        )


def _prove(
    reference: Reference,
    after: onnx.ModelProto,
    passes: Sequence[GraphPass],
    tolerance: float,
) -> None:
    """Compare the outputs; when they differ, find the pass that did it. Says where some outputs prove nothing."""
    complaint, undecided = _complaint(reference, after, tolerance)
    if not complaint:
        if undecided:
            warn(
                f"the passes changed the outputs {', '.join(map(repr, undecided))}, but no more than rounding or "
                "chance do, so these prove nothing; the others agree",
                PassWarning,
            )
        return

    # The outputs differ. Replay the passes one by one from the original, comparing
    # after each change, so that the pass is named that did it. This costs a run each,
    # and only where something is wrong.
    work, last = onnx.ModelProto(), passes[-1]
    work.CopyFrom(reference.model)
    for _ in range(_ROUNDS):
        changed = False
        for one in passes:
            if one.run(work):
                changed, last = True, one
                found, _ = _complaint(reference, work, tolerance)
                if found:
                    raise _FaultError(one.name, found)
        if not changed:
            break
    # Differences that add up: no single step was over the bound, the last one must take the blame.
    raise _FaultError(last.name, complaint)


def _complaint(
    reference: Reference, after: onnx.ModelProto, tolerance: float
) -> tuple[str, tuple[str, ...]]:
    """What speaks against a rewritten model, and the outputs that rounding decides."""
    try:
        verdict = reference.judge(after, tolerance)
    except PassError as error:
        return str(error), ()
    return verdict.complaint, verdict.undecided
