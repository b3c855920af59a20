"""From what the user says of open axes to a traced graph in which these are open, and an answer at another size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from torch import nn

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.tracing.batch_axis import REMEDIES, BatchAxes, find_batch
from sparsify_fx.onnx_export.tracing.inputs import Inputs, Place, places
from sparsify_fx.onnx_export.tracing.open_axes import Axes, is_optional, open_axes
from sparsify_fx.onnx_export.tracing.other_sizes import (
    FixedAxesError,
    OpenSizes,
    another_size,
    read_sizes,
)
from sparsify_fx.onnx_export.tracing.reference import Answer, agrees, runner
from sparsify_fx.onnx_export.tracing.trace import trace

_OTHER_BATCH = "the model does not take another batch size; pass dynamic_batch=False"


@dataclass(frozen=True)
class WantedAxes:
    """The names of the inputs, the axes to open (several tries, the best first) and who chose them."""

    at: list[Place]
    found: BatchAxes
    remedy: str


@dataclass(frozen=True)
class Traced:
    """The dense graph, PyTorch's answer at another size (None where none is open), and notes for the report."""

    model: onnx.ModelProto
    other: Answer | None
    notes: tuple[str, ...]


def check_choice(dynamic_batch: bool | None, dynamic_shapes: Any) -> None:
    """ExportError when both say which axes are open."""
    if dynamic_shapes is not None and dynamic_batch:
        raise ExportError(
            "dynamic_batch=True and dynamic_shapes both say which axes are open; leave dynamic_batch out and name the "
            'batch in dynamic_shapes, as {"x": {0: "batch"}}'
        )


def find_axes(
    model: nn.Module, inputs: Inputs, dynamic_batch: bool | None, dynamic_shapes: Any
) -> WantedAxes:
    """The open axes: those of `dynamic_shapes`, else the batch, unless that is not wanted."""
    # 1. What the user says decides.
    at = places(model, inputs)
    if dynamic_shapes is not None:
        remedy = "leave the axis out of dynamic_shapes, or open those of other inputs that have to equal it too"
        return WantedAxes(
            at, BatchAxes((open_axes(dynamic_shapes, inputs, at),), ((),)), remedy
        )
    # 2. Or says that none is.
    if dynamic_batch is False:
        return WantedAxes(at, BatchAxes(([{} for _ in at],), ((),)), "")
    # 3. The batch, which is found by running the model.
    if inputs.tensors[0].dim() == 0:
        raise ExportError(
            f"the input {at[0].name} is a scalar without a batch axis; pass dynamic_batch=False"
        )
    return WantedAxes(
        at,
        find_batch(inputs, runner(model, _OTHER_BATCH), sure=dynamic_batch is True),
        REMEDIES,
    )


def trace_checked(
    model: nn.Module,
    inputs: Inputs,
    wanted: WantedAxes,
    outputs: int,
    opset: int | None,
) -> Traced:
    """Trace the model, whose outputs are flat, with the first of the wanted axes that can be open.

    Raises ExportError when torch.onnx cannot export it so, or the model takes no other sizes.
    """
    # All but the last try may fail without a word; after the last one there is nothing to fall back on.
    tries = list(zip(wanted.found.tries, wanted.found.notes, strict=True))
    for axes, notes in tries[:-1]:
        try:
            model_proto, other = _trace(model, inputs, axes, wanted, outputs, opset)
        except ExportError:
            continue
        # A graph can be traced and still be wrong at other sizes, where a loop was
        # unrolled. Then the next try, with fewer open axes, is the better file.
        if other is None or agrees(model_proto, other):
            return Traced(model_proto, other, notes)
    axes, notes = tries[-1]
    model_proto, other = _trace(model, inputs, axes, wanted, outputs, opset)
    return Traced(model_proto, other, notes)


def _trace(
    model: nn.Module,
    inputs: Inputs,
    axes: Axes,
    wanted: WantedAxes,
    outputs: int,
    opset: int | None,
) -> tuple[onnx.ModelProto, Answer | None]:
    """The graph and the answer at another size; axes that only may be open are fixed where the model wants that."""
    run = runner(model, "it does not take them")
    while True:
        traced = _traced(model, inputs, axes, wanted, outputs, opset)
        # torch.export may have fixed an axis that only might be open, or found that two are one.
        sizes = read_sizes(traced.graph, inputs, axes)
        try:
            moved = another_size(sizes, run)
        except FixedAxesError as error:
            # It traced, but runs at no other size: such an axis is fixed, and traced
            # again. Each turn takes an axis away, so this ends.
            fewer = _without(axes, sizes, error.symbols)
            if fewer is None:
                raise
            axes = fewer
            continue
        return traced, moved and Answer(
            moved[0], moved[1], _doubt(sizes, moved[2], wanted.remedy)
        )


def _traced(
    model: nn.Module,
    inputs: Inputs,
    axes: Axes,
    wanted: WantedAxes,
    outputs: int,
    opset: int | None,
) -> onnx.ModelProto:
    """`trace`, whose error says what to do about open axes where there are some."""
    try:
        return trace(model, inputs, outputs, opset=opset, axes=axes, at=wanted.at)
    except ExportError as error:
        if not any(axes):
            raise
        raise ExportError(
            f"{error}; if it needs a fixed size, {wanted.remedy}"
        ) from error


def _without(axes: Axes, sizes: OpenSizes, symbols: Sequence[str]) -> Axes | None:
    """The axes without those that follow these numbers; None if one of them must be open."""
    stuck = sizes.places_of(tuple(symbols))
    if not stuck or not all(is_optional(axes[n][axis]) for n, axis in stuck):
        return None
    return [
        {a: spec for a, spec in mine.items() if (n, a) not in stuck}
        for n, mine in enumerate(axes)
    ]


def _doubt(sizes: OpenSizes, told: str, remedy: str) -> str:
    """What a difference at other sizes means; `{error}` is filled in when there is one."""
    return (
        f"with {told} ({sizes.told(tuple(sizes.values))}): {{error}}. The exported graph is right only for the sizes "
        f"of the examples: {remedy}"
    )
