"""Choose how each initializer is stored, and check that it decodes to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.report import LayerRow
from sparsify_fx.onnx_export.sparse_initializers import decode_coo, encode_coo
from sparsify_fx.onnx_export.weights import weight_values

ENCODINGS = ("auto", "dense", "coo")
"""Names for `export(encoding=...)`; auto stores a tensor as COO exactly when that takes fewer bytes."""


def encode_initializers(dense: onnx.ModelProto, encoding: str) -> tuple[onnx.ModelProto, tuple[LayerRow, ...]]:
    """A copy of `dense` with its initializers stored as `encoding` says, and one row per initializer.

    `dense` itself is not changed. Sizes in the rows are serialised bytes.
    """
    encoded = onnx.ModelProto()
    encoded.CopyFrom(dense)
    graph = encoded.graph
    del graph.initializer[:]
    weights = weight_values(dense.graph)
    # Inputs and outputs of the graph must stay ordinary tensors.
    fixed = {item.name for item in (*graph.input, *graph.output)}
    rows = []
    for tensor in dense.graph.initializer:
        sparse = None if tensor.name in fixed else _sparse_form(tensor, encoding)
        if sparse is None:
            graph.initializer.append(tensor)
        else:
            graph.sparse_initializer.append(sparse)
        rows.append(tensor_row(tensor, None if sparse is None else sparse.ByteSize(), weights))
    return encoded, tuple(rows)


def tensor_row(tensor: onnx.TensorProto, coo_bytes: int | None, weights: set[str]) -> LayerRow:
    """The row of a dense tensor, stored as COO in `coo_bytes` bytes or, with None, as it is."""
    values, size = numpy_helper.to_array(tensor), tensor.ByteSize()
    return LayerRow(
        name=tensor.name,
        shape=tuple(tensor.dims),
        dtype=dtype_name(tensor.data_type),
        size=int(values.size),
        nonzeros=count_nonzeros(values),
        bytes_dense=size,
        bytes_stored=size if coo_bytes is None else coo_bytes,
        encoding="dense" if coo_bytes is None else "coo",
        prunable=tensor.name in weights and is_matrix(tensor.data_type, tensor.dims),
    )


def is_matrix(data_type: int, shape: Any) -> bool:
    """Whether this is a float tensor of two or more dimensions."""
    kinds = onnx.TensorProto
    return len(shape) >= 2 and data_type in (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)


def count_nonzeros(values: NDArray[Any]) -> int:
    """How many entries differ from 0; both signs of zero count as zero, strings as non-zero."""
    return int(values.size) if values.dtype.kind in "OSU" else int(np.count_nonzero(values != 0))


def dtype_name(data_type: int) -> str:
    """ONNX's number of a type as numpy's word for it: 1 -> `float32`."""
    name: str = onnx.TensorProto.DataType.Name(data_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def check_bits(dense: onnx.ModelProto, written: onnx.ModelProto) -> None:
    """Every initializer of `written` decodes to the bits it has in `dense`; else an ExportError that names it."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    for sparse in written.graph.sparse_initializer:
        stored[sparse.values.name] = decode_coo(sparse)
    for tensor in dense.graph.initializer:
        expected, got = numpy_helper.to_array(tensor), stored.pop(tensor.name, None)
        if got is None or got.dtype != expected.dtype or got.shape != expected.shape:
            raise ExportError(f"{tensor.name}: the written file lacks this tensor or changed its shape; report a bug")
        if got.tobytes() != expected.tobytes():
            raise ExportError(f"{tensor.name}: decoding the file gives other values; report a bug")


def _sparse_form(tensor: onnx.TensorProto, encoding: str) -> onnx.SparseTensorProto | None:
    """The COO form where `encoding` wants it, else None."""
    if encoding == "dense" or tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
        return None
    values = numpy_helper.to_array(tensor).reshape(-1)
    kept = int(np.count_nonzero(values.view(np.uint32)))
    # A value and its index take 5 bytes or more: most dense tensors need no closer look.
    if kept == values.size or (encoding == "auto" and 5 * kept >= tensor.ByteSize()):
        return None
    sparse = encode_coo(tensor)
    return sparse if encoding == "coo" or sparse.ByteSize() < tensor.ByteSize() else None
