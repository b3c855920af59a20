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
    at = places(model, inputs)
    if dynamic_shapes is not None:
        remedy = "leave the axis out of dynamic_shapes, or open those of other inputs that have to equal it too"
        return WantedAxes(
            at, BatchAxes((open_axes(dynamic_shapes, inputs, at),), ((),)), remedy
        )
    if dynamic_batch is False:
        return WantedAxes(at, BatchAxes(([{} for _ in at],), ((),)), "")
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
    tries = list(zip(wanted.found.tries, wanted.found.notes, strict=True))
    for axes, notes in tries[:-1]:
        try:
            model_proto, other = _trace(model, inputs, axes, wanted, outputs, opset)
        except ExportError:
            continue
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
        sizes = read_sizes(traced.graph, inputs, axes)
        try:
            moved = another_size(sizes, run)
        except FixedAxesError as error:
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
    return (
        f"with {told} ({sizes.told(tuple(sizes.values))}): {{error}}. The exported graph is right only for the sizes "
        f"of the examples: {remedy}"
    )
