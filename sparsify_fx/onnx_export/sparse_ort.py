"""`target="sparse-ort"`: layers become sparse operators where those are faster; all other weights are encoded."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from sparsify_fx import runtime
from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files.metadata import (
    CHOICE,
    TARGET,
    get_metadata,
    put_metadata,
)
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.layer_choice import Setting, Sizes, choose_layers
from sparsify_fx.onnx_export.profiles import PROFILES
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.storage.codecs.choosing import count_nonzeros, digest
from sparsify_fx.onnx_export.storage.encodings import Encoded, encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.packable import dtype_name
from sparsify_fx.onnx_export.tracing.trace import opset_of

_LOG = logging.getLogger(__name__)

TARGETS = tuple(PROFILES)
"""Names for `export(target=...)`: any runtime, a known one, or onnxruntime with the library of sparse operators."""


def check_wanted(wanted: Wanted) -> None:
    """What was asked for fits together and can be done here; nothing has been written yet.

    Raises ExportError for options that contradict the target, RuntimeLibraryError without the library.
    """
    profile = wanted.profile
    if wanted.encoding != "auto" and wanted.encoding not in profile.encodings:
        raise ExportError(
            f"encoding={wanted.encoding!r} is not for target {wanted.target!r}, which takes "
            f"{', '.join(profile.encodings)}; use encoding='auto', or target='onnx' for other runtimes"
        )
    if wanted.functions and not profile.functions:
        raise ExportError(
            f"functions=True is not for target {wanted.target!r}, which takes no local functions; leave it out"
        )
    if wanted.target != SPARSE:
        _check_values(wanted)
        if wanted.autotune:
            raise ExportError(
                f"autotune chooses layers for the sparse operators, but the target is {wanted.target!r}; "
                f"pass target={SPARSE!r} (--target {SPARSE})"
            )
        return
    if wanted.values not in ("fp32", "fp32-packed"):
        raise ExportError(
            f"values={wanted.values!r} is not for target {SPARSE!r}: the sparse operators hold float32; use fp32"
        )
    runtime.library()


def _check_values(wanted: Wanted) -> None:
    """The runtime decodes values of this kind to the right bits."""
    known = wanted.profile.values
    if wanted.values not in known:
        raise ExportError(
            f"values={wanted.values!r} is not for target {wanted.target!r}, which takes {', '.join(known)}; use one of "
            "these, or target='onnx' for other runtimes"
        )


def encode(
    dense: onnx.ModelProto,
    wanted: Wanted,
    sizes: Sizes,
    reader: TensorReader | None = None,
    expected: Sizes | None = None,
    origin: str = "given",
    moved: Moved | None = None,
    feed: Mapping[str, Any] | None = None,
) -> Encoded:
    """A copy of `dense` with its weights stored as wanted, for the wanted target; `sizes`: shapes of the inputs.

    `expected`: shapes of other values at these sizes, as far as known; `origin`: where the sizes come from; `moved`:
    constants that lay elsewhere before (`encode_initializers`); `feed`: inputs to time the whole model on, where
    `wanted` asks for that.

    Which layers are sparse, why, and the times in nanoseconds that decided are in the copy's metadata. Rows and
    digests are those of the dense weights, whatever holds them.
    """
    count = len(dense.graph.initializer)
    _LOG.info(
        "storing %d tensors as %s, encoding %s, target %s",
        count,
        wanted.values,
        wanted.encoding,
        wanted.target,
    )
    if wanted.target != SPARSE:
        encoded = encode_initializers(dense, wanted, reader, moved=moved)
        return replace(encoded, notes=_about_runtime(wanted, opset_of(dense)))
    reader = reader or TensorReader()

    # 1. Sparse operators first: what they take over is no weight to encode any more.
    chosen = choose_layers(
        dense, wanted, Setting(sizes, expected or {}, origin, feed), reader
    )
    sparse, names = chosen.model, chosen.names
    put_metadata(
        sparse, get_metadata(sparse) | ({TARGET: SPARSE, CHOICE: chosen.choice})
    )

    # 2. All other weights as usual. Values and gaps of sparse operators must stay plain,
    # as the kernels read them at load.
    held = {f"{name}.values" for name in names} | {f"{name}.gaps" for name in names}
    encoded = encode_initializers(
        sparse, wanted, reader, untouched_names=held, moved=moved, in_order=False
    )

    # 3. Rows and digests are those of the dense weights, so that reports compare targets
    # and the check sees every bit.
    bytes_of = {row.name: row.bytes_stored for row in encoded.rows}
    rows = {row.name: row for row in encoded.rows if row.name not in held}
    digests = {name: mark for name, mark in encoded.digests.items() if name not in held}
    for tensor in dense.graph.initializer:
        if tensor.name in names:
            stored = bytes_of[f"{tensor.name}.values"] + bytes_of[f"{tensor.name}.gaps"]
            array = reader.array(tensor)
            rows[tensor.name] = _row(
                tensor, count_nonzeros(array), reader.size(tensor), stored
            )
            digests[tensor.name] = digest(array)
    kept = [
        rows[tensor.name] for tensor in dense.graph.initializer if tensor.name in rows
    ]
    return replace(encoded, rows=tuple(kept), digests=digests, notes=chosen.notes)


def _row(tensor: onnx.TensorProto, nonzeros: int, size: int, stored: int) -> LayerRow:
    """The row of a weight that a sparse operator holds."""
    shape = tuple(tensor.dims)
    return LayerRow(
        name=tensor.name,
        shape=shape,
        dtype=dtype_name(tensor.data_type),
        size=math.prod(shape),
        nonzeros=nonzeros,
        bytes_dense=size,
        bytes_stored=stored,
        encoding=SPARSE,
        prunable=True,
    )


def _about_runtime(wanted: Wanted, opset: int) -> tuple[str, ...]:
    """What the report says of the runtime that the file is for."""
    profile, newest = wanted.profile, wanted.profile.newest_opset
    notes = [profile.note] if profile.note else []
    if newest is not None and opset > newest:
        notes.append(
            f"the model has opset {opset}, and {profile.runs_in} {profile.checked} was tried with {newest} at most; "
            f"if it refuses the file, export with opset={newest}"
        )
    return tuple(notes)


def library_for(model: onnx.ModelProto) -> str | None:
    """The library that a session needs for this model; None for a model without sparse operators.

    Raises RuntimeLibraryError when it needs one and there is none.
    """
    return runtime.library() if runtime.sparse_weights(model) else None
