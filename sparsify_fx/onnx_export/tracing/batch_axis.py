"""Which axis of the inputs is the batch: the one whose entries the model treats apart from each other.

Shapes alone cannot tell: nn.LSTM takes [time, batch, features], and most else [batch, ...]. So the model itself is
asked: change one entry along an axis, run again, and see whether anything changes in the answers to other entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.verify import Arrays
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.onnx_export.tracing.open_axes import Axes

Run = Callable[[Inputs], Arrays]

_SAME = 1e-5  # of an output's largest value: what adding up in another order may change

REMEDIES = (
    "if the first axis is not the batch (time first, as nn.LSTM has it by default), pass dynamic_batch=False, name the "
    'axes that are open, dynamic_shapes={"x": {1: "batch"}}, or let the model take the batch first (batch_first=True)'
)


@dataclass(frozen=True)
class BatchAxes:
    """Open axes to try in turn, the best first, and what the report says of them (with the number of the try)."""

    tries: tuple[Axes, ...]
    notes: tuple[tuple[str, ...], ...]


def find_batch(inputs: Inputs, run: Run, *, sure: bool) -> BatchAxes:
    """The batch axis of a model that `run` runs, open at any size; `sure`: it is the first one, whatever that does.

    A model treats the samples of a batch apart: what changes one of them changes nothing of the others. Where that is
    not so along the first axis, but along the second (time or sequence first), both are open if torch.onnx can.
    Raises ExportError when the model takes no other size of the first axis and the second is none either.
    """
    # Inputs that share the size of the first one share its batch; others (a table, say) are fixed.
    first = [
        {0: Dim("batch")} if _shares(value, inputs, 0) else {}
        for value in inputs.tensors
    ]

    # 1. Does the model take one more entry along the first axis, and does it treat entries apart?
    try:
        apart = _apart(inputs, 0, run, check=not sure)
    except ExportError as error:
        # The example's size only, along the first axis: time that a positional table bounds, perhaps.
        if sure or not _is_batch(inputs, 1, run):
            raise ExportError(f"{error}; {REMEDIES}") from error
        return BatchAxes(
            (_second(inputs, grows=False),), (_notes(inputs, grows=False),)
        )

    # 2. Apart in some output at least, or nothing changed at all: the usual case. Other
    # outputs may be means over the batch.
    if sure or not apart or any(apart):
        return BatchAxes((first,), ((),))

    # 3. Not apart along the first axis. Neither along the second: a batch whose samples
    # meet, as in batch statistics or contrastive models; the user is told.
    if not _is_batch(inputs, 1, run):
        told = f"the model's answer on one sample of the batch depends on the other samples; {REMEDIES}"
        return BatchAxes((first,), ((told,),))

    # 4. The second axis it is. Time as well if torch.onnx can open it, which unrolled layers prevent.
    tries = tuple(_second(inputs, grows=grows) for grows in (True, False))
    return BatchAxes(
        tries, tuple(_notes(inputs, grows=grows) for grows in (True, False))
    )


def _shares(value: Tensor, inputs: Inputs, axis: int) -> bool:
    """Whether an input has the size of the first one along an axis; the first input has at least one axis."""
    return value.dim() > axis and value.shape[axis] == inputs.tensors[0].shape[axis]


def _second(inputs: Inputs, *, grows: bool) -> Axes:
    """The second axis open, and the first one too if it `grows`."""
    axes = []
    for value in inputs.tensors:
        length = (
            {0: "length"}
            if grows and value.dim() > 1 and _shares(value, inputs, 0)
            else {}
        )
        axes.append(length | ({1: "batch"} if _shares(value, inputs, 1) else {}))
    return axes


def _notes(inputs: Inputs, *, grows: bool) -> tuple[str, ...]:
    size = inputs.tensors[0].shape[0]
    first = (
        "the first one can have any size too"
        if grows
        else f"the first one is fixed to {size}"
    )
    return (
        f"the second axis of the inputs is taken for the batch, as the entries of the first depend on each other (time "
        f"or sequence first): it can have any size, {first}; dynamic_batch or dynamic_shapes say otherwise",
    )


def _is_batch(inputs: Inputs, axis: int, run: Run) -> bool:
    """Whether all that changes with one entry of an axis belongs to that entry."""
    if inputs.tensors[0].dim() <= axis:
        return False
    try:
        apart = _apart(inputs, axis, run, check=True)
    except ExportError:
        return False
    # All outputs that change, and at least one: an output that never changes shows nothing.
    return bool(apart) and all(apart or ())


def _apart(inputs: Inputs, axis: int, run: Run, *, check: bool) -> list[bool] | None:
    """Of each output that changes with the first entry of an axis, whether the others' entries stay; None unchecked.

    The axis is one longer than in the inputs. Raises ExportError when the model does not take that.
    """
    # One more: that tells whether another size is taken at all, and makes it less
    # likely that other axes are as long, as `_within_one` finds the axis by its length.
    size = inputs.tensors[0].shape[axis] + 1
    shared = [_shares(value, inputs, axis) for value in inputs.tensors]
    more = inputs.resized([{axis: size} if mine else {} for mine in shared])
    before = run(more)
    if not check:
        return None
    changed = [
        _changed(value, axis) if mine else value
        for value, mine in zip(more.tensors, shared, strict=True)
    ]
    after = run(more.holding(changed))
    moves = [_moves(a, b) for a, b in zip(before, after, strict=True)]
    return [_within_one(move, size) for move in moves if move.any()]


def _changed(value: Tensor, axis: int) -> Tensor:
    """The tensor with other values in the first entry of an axis; integers stay among those that are there."""
    value = value.clone()
    entry = value.select(axis, 0)
    # Flipped and scaled: neither a constant entry nor a symmetric one stays the same.
    # Integers may be indices, so they are only put in another order.
    other = entry.flip(tuple(range(entry.dim()))) if entry.dim() else entry
    entry.copy_(other * 1.5 + 0.25 if value.is_floating_point() else other)
    return value


def _moves(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    """Where an output changed, by more than rounding; NaN that stays NaN has not."""
    if before.dtype.kind not in "fc":
        return np.asarray(before != after)
    # What moved by rounding alone, as kernels add up in another order, counts as still.
    finite = np.abs(before[np.isfinite(before)])
    bound = _SAME * float(finite.max(initial=0.0))
    with np.errstate(invalid="ignore"):
        same = (
            (np.abs(before - after) <= bound)
            | (before == after)
            | (np.isnan(before) & np.isnan(after))
        )
    return np.asarray(~same)


def _within_one(move: NDArray[np.bool_], size: int) -> bool:
    """Whether an output has an axis of this size along which only the first entry changed."""
    axes: Sequence[int] = [
        axis for axis, length in enumerate(move.shape) if length == size
    ]
    # An output may hold the batch on another axis than the input does.
    return any(not np.moveaxis(move, axis, 0)[1:].any() for axis in axes)
