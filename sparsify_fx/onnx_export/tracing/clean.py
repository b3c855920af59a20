"""What becomes of a traced ONNX model: no tracing metadata, our name as producer, one kind of zero, the passes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsify_fx.errors import ExportError, PassError
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.onnx_tools.view import (
    GraphView,
    attribute,
    input_of,
    is_standard,
    set_input,
)
from sparsify_fx.onnx_tools.weights import walk_graphs
from sparsify_fx.passes.onnx_graph import PassRow, optimize


def strip_metadata(model: onnx.ModelProto) -> None:
    """Drop, in place, doc strings and `metadata_props` everywhere: 67 to 590 KB of stack traces in a usual model.

    Names of nodes, values and initializers stay.
    """
    # torch.onnx notes for every node the lines of Python that it came from, with paths of whoever exported it.
    for part in (model, *model.functions):
        _bare(part)
    graphs = list(walk_graphs(model.graph))
    for graph in graphs:
        _bare(graph)
        for group in (
            graph.node,
            graph.value_info,
            graph.input,
            graph.output,
            graph.initializer,
        ):
            for item in group:
                _bare(item)
    for function in model.functions:
        for item in (*function.node, *function.value_info):
            _bare(item)


def _bare(item: object) -> None:
    """Clear the two fields where `item` has them; older onnx versions miss some."""
    fields = item.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    for field in ("doc_string", "metadata_props"):
        if field in fields:
            item.ClearField(field)  # type: ignore[attr-defined]


def set_producer(model: onnx.ModelProto) -> None:
    """Name sparsify_fx and its version as the producer, in place."""
    model.producer_name = "sparsify_fx"
    model.producer_version = metadata.version("sparsify_fx")


PRUNED = 0.25
"""The share of zeros in a tensor from which they count as pruned."""


def normalize_zeros(
    model: onnx.ModelProto, reader: TensorReader | None = None, least: float = 0.0
) -> None:
    """Turn -0.0 into +0.0 in the float tensors of two or more dimensions, in place.

    `weight * mask`, and a batch norm with a negative scale folded into its convolution, make -0.0 of pruned weights.
    Nothing but the sign of a zero can depend on it, and codes, bit-exact as they are, would store each of them.
    `least`: the share of zeros, of both signs, that a tensor must have.
    """
    for tensor, values in _matrices(model, reader or TensorReader()):
        # Only tensors that have some are written again, so that all others keep their very bytes.
        negative = _negative_zeros(values, least)
        if negative.any():
            tensor.CopyFrom(
                numpy_helper.from_array(
                    np.where(negative, values.dtype.type(0), values), tensor.name
                )
            )


def count_negative_zeros(
    model: onnx.ModelProto, reader: TensorReader, least: float = 0.0
) -> int:
    """How many entries `normalize_zeros` would change."""
    return sum(
        int(_negative_zeros(values, least).sum())
        for _, values in _matrices(model, reader)
    )


def _negative_zeros(values: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Where the -0.0 are; nowhere in an array with a smaller share of zeros."""
    zeros: NDArray[np.bool_] = values == 0
    # In a tensor with few zeros they are learned values by chance, and no pruned weights.
    if np.count_nonzero(zeros) < least * zeros.size:
        return np.zeros_like(zeros)
    negative: NDArray[np.bool_] = zeros & np.signbit(values)
    return negative


_KINDS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def _matrices(
    model: onnx.ModelProto, reader: TensorReader
) -> Iterator[tuple[onnx.TensorProto, NDArray[Any]]]:
    """The float initializers of two or more dimensions, and their arrays."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2 and tensor.data_type in _KINDS:
            yield tensor, reader.array(tensor)


_FIRST_OPSET = 18  # of Pad with axes


def keep_zero_padding(model: onnx.ModelProto) -> int:
    """Name the axes of every Pad of zeros that a MaxPool reads, in place; how many there were.

    onnxruntime (1.31 at least) fuses such a pair into a MaxPool with pads, whose border never wins, although the zeros
    win over negative values; hgnetv2 of timm loses 7 % of its outputs' size that way. It leaves a Pad with explicit
    axes alone, and all axes in their order mean the same as none. Below opset 18 Pad has no axes, and nothing is done:
    there, `export` refuses a file whose outputs differ.
    """
    view = GraphView(model)
    if view.opset < _FIRST_OPSET:
        return 0
    changed = 0
    for node in view.nodes:
        # A Pad that names no axes and writes a constant is what the fusion matches.
        pads = view.constant(input_of(node, 1)) if is_standard(node, "Pad") else None
        if (
            pads is None
            or input_of(node, 3)
            or attribute(node, "mode", "constant") != "constant"
        ):
            continue
        if not any(
            is_standard(reader, "MaxPool") for reader in view.uses[node.output[0]]
        ):
            continue

        # All axes in their order mean what none mean, but the fusion does not match.
        axes = numpy_helper.from_array(
            np.arange(pads.size // 2, dtype=np.int64), view.fresh("pad_axes")
        )
        model.graph.initializer.append(axes)
        set_input(node, 3, axes.name)
        changed += 1
    return changed


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
        # In the order of the graph's inputs, which `trace` has sorted as the example's tensors are.
        smaller, rows = optimize(dense, inputs=feed)
    except PassError as error:
        raise ExportError(
            f"{error}; pass optimize=False (--no-optimize) to export without the passes"
        ) from error
    if smaller is not dense:
        normalize_zeros(
            smaller
        )  # a negative scale, folded, makes -0.0 of pruned weights
    return smaller, rows
