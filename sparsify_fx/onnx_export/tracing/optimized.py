"""The passes over the graph, as `export` runs them."""

from __future__ import annotations

import onnx

from sparsify_fx.errors import ExportError, PassError
from sparsify_fx.onnx_export.tracing.clean import normalise_zeros
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.passes.onnx_graph import PassRow, optimize


def optimized(
    dense: onnx.ModelProto, inputs: Inputs
) -> tuple[onnx.ModelProto, tuple[PassRow, ...]]:
    """The graph after all passes, proven on `inputs`, and what each removed; `dense` itself if nothing was to do.

    Raises ExportError when a pass fails; the file can still be had without them.
    """
    feed = {
        item.name: value.contiguous().numpy()
        for item, value in zip(dense.graph.input, inputs.tensors, strict=True)
    }
    try:
        smaller, rows = optimize(dense, inputs=feed)
    except PassError as error:
        raise ExportError(
            f"{error}; pass optimize=False (--no-optimize) to export without the passes"
        ) from error
    if smaller is not dense:
        normalise_zeros(
            smaller
        )  # a negative scale, folded, makes -0.0 of pruned weights
    return smaller, rows
