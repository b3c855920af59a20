"""Choose how each initializer is stored, and check that it decodes to the same bits."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.report.rows import LayerRow
from sparsify_fx.onnx_export.storage.assembling import stored_bytes, with_choices
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, Weight
from sparsify_fx.onnx_export.storage.codecs.choosing import (
    Choice,
    digest,
    smallest,
    untouched,
    worth_keeping,
)
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.options import (
    Wanted,
    families,
    options,
)
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.packable import (
    PACKED_TYPES,
    dtype_name,
    is_matrix,
)
from sparsify_fx.onnx_export.storage.putting_back import put_back
from sparsify_fx.onnx_export.storage.quantized import (
    INTEGERS,
    names_of_points,
    zero_points,
)
from sparsify_fx.onnx_export.tracing.trace import opset_of
from sparsify_fx.onnx_tools.weights import channel_axes, weight_values


@dataclass(frozen=True)
class Encoded:
    """A model with its initializers encoded, one row for each, and a digest of the array that each must give.

    `moved`: the constants that lay elsewhere, and are initializers (or rebuilt, or in sparse operators) now;
    `notes`: what the user should know of how sparse layers were chosen.
    """

    model: onnx.ModelProto
    rows: tuple[LayerRow, ...]
    digests: dict[str, bytes]
    moved: Moved = field(default_factory=Moved)
    notes: tuple[str, ...] = ()


def encode_initializers(
    dense: onnx.ModelProto,
    wanted: Wanted,
    reader: TensorReader | None = None,
    *,
    untouched_names: Collection[str] = (),
    moved: Moved | None = None,
    in_order: bool = True,
) -> Encoded:
    """A copy of `dense` with its initializers stored as wanted; `reader` gives the arrays of initializers.

    Those of `untouched_names` stay as they are. `dense` itself is not changed but for constants that `moved` into its
    main graph: those that are stored as they were are put back (`in_order`: as in `put_back`). Values that lose
    something are for prunable weights only. Sizes in the rows are bytes; what several weights share is in none of
    them. Raises ExportError when the model's opset is too old.
    """
    # 1. What is known of the model before any weight is looked at: which tensors are
    # weights, what zero means in quantized ones, and which tensors must stay readable.
    graph, opset, reader = dense.graph, opset_of(dense), reader or TensorReader()
    _check_opset(opset, wanted)
    weights, axes = weight_values(graph, dense.functions), channel_axes(graph)
    zeros = zero_points(dense, reader.array)
    # Inputs and outputs of the graph must stay ordinary tensors.
    fixed = (
        {item.name for item in (*graph.input, *graph.output)}
        | names_of_points(dense)
        | set(untouched_names)
    )

    # 2. Every way to store each tensor that may be in the smallest file. Of large ones
    # that is hardly ever more than one, so a model of gigabytes is never held several
    # times.
    found = []
    for tensor in graph.initializer:
        array, size = reader.array(tensor), reader.size(tensor)
        weight = Weight(array, axes.get(tensor.name, 0), _zero(tensor, zeros))
        if (
            tensor.name in fixed
            or tensor.data_type not in PACKED_TYPES
            # Of a scalar no encoding can leave anything out.
            or not tensor.dims
        ):
            found.append([untouched(array, size, weight.zero)])
        else:
            prunable = tensor.name in weights and is_matrix(
                tensor.data_type, tensor.dims
            )
            found.append(worth_keeping(options(weight, size, wanted, prunable, opset)))

    # 3. One way for each, chosen together: tables that weights share pay only if enough
    # of them do.
    beside = sum(node.ByteSize() for node in graph.node)
    picked = smallest(found, families(wanted, opset), beside)
    sizes = {tensor.name: reader.size(tensor) for tensor in graph.initializer}
    chosen = {
        tensor.name: choice
        for tensor, choice in zip(graph.initializer, picked, strict=True)
    }
    rows = [
        _row(tensor, chosen[tensor.name], weights, sizes[tensor.name])
        for tensor in graph.initializer
    ]

    # 4. Constants that gained nothing return to their places first: what is assembled
    # next copies the nodes of `dense`, and Constant nodes that are back must be among
    # them.
    left = _settle(dense, chosen, moved or Moved(), in_order)
    # Rounds need a Scan.
    rounds = "Scan" in wanted.profile.operators
    encoded = with_choices(dense, chosen, functions=wanted.functions, rounds=rounds)

    # 5. Sizes are read off the result: only there is it known what each weight shares
    # with others.
    stored = sizes | stored_bytes(encoded, reader)
    rows = [replace(row, bytes_stored=stored[row.name]) for row in rows]
    digests = {tensor.name: chosen[tensor.name].digest for tensor in graph.initializer}
    return Encoded(encoded, tuple(rows), digests, left)


def _settle(
    dense: onnx.ModelProto, chosen: dict[str, Choice], moved: Moved, in_order: bool
) -> Moved:
    """Put constants that stay as they are back where they were, in place; returns the others.

    Not those that were inputs as well before IR version 4: there they are constants, from then on they would be none.
    """
    stay = {
        name
        for name, origin in moved.origins.items()
        if name in chosen
        and chosen[name].parts is None
        # Before IR version 4 an initializer had to be an input and was a constant all the
        # same. In the newer version that the packed file has, an input can be replaced by
        # callers, and onnxruntime folds nothing that depends on it.
        and not (origin.input and moved.constant_inputs)
    }
    left = moved.without(stay)
    put_back(dense, moved.only(stay), still=left, in_order=in_order)
    return left


def _zero(tensor: onnx.TensorProto, zeros: dict[str, Any]) -> Any:
    """What stands for zero in a tensor of integers; None for floats."""
    if tensor.data_type not in INTEGERS:
        return None
    return zeros.get(tensor.name, np.zeros((1,) * len(tensor.dims), np.int64))


def as_it_is(dense: onnx.ModelProto, reader: TensorReader) -> Encoded:
    """The model itself, not a copy; its plain initializers are what `encode_initializers` makes of them for `dense`."""
    weights, zeros = (
        weight_values(dense.graph, dense.functions),
        zero_points(dense, reader.array),
    )
    pairs = [
        (
            tensor,
            untouched(reader.array(tensor), reader.size(tensor), _zero(tensor, zeros)),
        )
        for tensor in dense.graph.initializer
    ]
    rows = tuple(_row(tensor, choice, weights, choice.cost) for tensor, choice in pairs)
    return Encoded(
        dense, rows, {tensor.name: choice.digest for tensor, choice in pairs}
    )


def _row(
    tensor: onnx.TensorProto, choice: Choice, weights: set[str], size: int
) -> LayerRow:
    return LayerRow(
        name=tensor.name,
        shape=tuple(tensor.dims),
        dtype=dtype_name(tensor.data_type),
        size=math.prod(tensor.dims),
        nonzeros=choice.nonzeros,
        bytes_dense=size,
        bytes_stored=size,
        encoding=choice.encoding,
        prunable=tensor.name in weights and is_matrix(tensor.data_type, tensor.dims),
        values=choice.values,
    )


def check_bits(
    digests: dict[str, bytes],
    written: onnx.ModelProto,
    reader: TensorReader | None = None,
) -> None:
    """Every initializer decodes, with the nodes of `written`, to what it must give; else an ExportError names it."""
    for name, array in Decoder(written, reader).arrays(digests):
        if digest(array) != digests[name]:
            raise ExportError(
                f"{name}: decoding the file gives other values; report a bug"
            )


def _check_opset(opset: int, wanted: Wanted) -> None:
    """The model has the operators that what was asked for needs."""
    least = ENCODINGS[wanted.encoding].opset if wanted.encoding in ENCODINGS else 0
    # Nodes that decode values, like those of `gap` and `bitmask`, are written for opset
    # 11 and later alone.
    least = least if wanted.values == "fp32" else 11
    if opset < least:
        raise ExportError(
            f"{wanted.encoding} with values {wanted.values} needs opset {least}, but the model has {opset}; "
            "use encoding coo with values fp32, or convert it with onnx.version_converter"
        )
