"""`target="sparse-ort"`: layers become sparse operators where those are faster; all other weights are encoded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx

from sparsify_fx import runtime
from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.coded_weights import hold_weights, rows_in_order
from sparsify_fx.onnx_export.files.metadata import (
    CHOICE,
    TARGET,
    get_metadata,
    put_metadata,
)
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.layer_choice import Setting, Sizes, choose_layers
from sparsify_fx.onnx_export.profiles import PROFILES
from sparsify_fx.onnx_export.report.notes import about_quantized, about_runtime
from sparsify_fx.onnx_export.report.rows import SPARSE
from sparsify_fx.onnx_export.storage.encodings import Encoded, encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.origins import Moved
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
    _check_values(wanted)
    if wanted.target != SPARSE:
        if wanted.autotune:
            raise ExportError(
                f"autotune chooses layers for the sparse operators, but the target is {wanted.target!r}; "
                f"pass target={SPARSE!r} (--target {SPARSE})"
            )
        return
    runtime.check_library(1 if wanted.values == "fp32" else runtime.FORMAT)


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
    digests are those of the weights that the file gives, whatever holds them.
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
        return replace(encoded, notes=about_runtime(wanted.profile, opset_of(dense)))
    reader = reader or TensorReader()

    # 1. Sparse operators first: what they take over is no weight to encode any more.
    chosen = choose_layers(
        dense, wanted, Setting(sizes, expected or {}, origin, feed), reader
    )
    sparse, names = chosen.model, chosen.names
    put_metadata(
        sparse, get_metadata(sparse) | ({TARGET: SPARSE, CHOICE: chosen.choice})
    )

    # 2. What they hold gets values of the wanted kind. How fast a layer runs does not
    # depend on it: all are float32 once the file is loaded.
    weights = hold_weights(sparse, dense, names, wanted.values, reader)

    # 3. All other weights as usual. Values and gaps of sparse operators must stay plain,
    # as the kernels read them at load.
    held = {f"{name}.values" for name in names} | {f"{name}.gaps" for name in names}
    encoded = encode_initializers(
        sparse, wanted, reader, untouched_names=held, moved=moved, in_order=False
    )

    # 4. Rows and digests are those of the weights and not of the tensors that hold them,
    # so that reports compare targets and the check sees every bit.
    rows = {row.name: row for row in encoded.rows if row.name not in held}
    digests = {name: mark for name, mark in encoded.digests.items() if name not in held}
    rows |= {name: each.row for name, each in weights.items()}
    digests |= {name: each.digest for name, each in weights.items()}
    kept = rows_in_order(dense, rows)
    notes = (*chosen.notes, *about_quantized(kept))
    return replace(encoded, rows=kept, digests=digests, notes=notes)


def library_for(model: onnx.ModelProto) -> str | None:
    """The library that a session needs for this model; None for a model without sparse operators.

    Raises RuntimeLibraryError when it needs one and there is none, or one that is older than the file.
    """
    needed = runtime.format_of(model)
    return runtime.check_library(needed) if needed else None
