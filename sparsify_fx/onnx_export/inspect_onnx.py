"""The tensors of an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.codecs.choosing import count_nonzeros
from sparsify_fx.onnx_export.codecs.decoding import Decoder, rebuilding
from sparsify_fx.onnx_export.codecs.parts import tensor_bytes
from sparsify_fx.onnx_export.encodings import dtype_name, is_matrix
from sparsify_fx.onnx_export.macs import layer_macs
from sparsify_fx.onnx_export.metadata import stored_weights
from sparsify_fx.onnx_export.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.sparse_initializers import decode_coo
from sparsify_fx.onnx_export.tensors import TensorReader, load_onnx, stored_tensors
from sparsify_fx.onnx_export.weights import weight_values
from sparsify_fx.runtime.restore import sparse_weights, to_dense


def onnx_rows(file: Path) -> tuple[LayerRow, ...]:
    """One row per initializer, dense, sparse or packed, and per constant node, branches and loops included.

    Raises ExportError when the file or its external data is missing, damaged or no ONNX.
    """
    model, reader = load_onnx(file), TensorReader(file.parent)
    try:
        held = {name: _held_bytes(model, node, reader) for name, node in sparse_weights(model).items()}
        model = to_dense(model, reader.array) if held else model
        rows = _rows(model, reader)
    except (ValueError, TypeError) as error:
        raise ExportError(f"{file}: a tensor is damaged ({error}); write the file again") from error
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from error
    macs = layer_macs(model, rows, {})
    rows = [replace(row, macs=macs.get(row.name)) for row in rows]
    return tuple(
        replace(row, encoding=SPARSE, bytes_stored=held[row.name]) if row.name in held else row for row in rows
    )


def _held_bytes(model: onnx.ModelProto, node: onnx.NodeProto, reader: TensorReader) -> int:
    """Bytes of the tensors of a sparse operator's weight."""
    return sum(reader.size(tensor) for tensor in model.graph.initializer if tensor.name in node.input[1:3])


def _rows(model: onnx.ModelProto, reader: TensorReader) -> list[LayerRow]:
    """The rows without MACs; the nodes that rebuild weights are taken out of the model on the way."""
    graph = model.graph
    weights, stored, decoder = weight_values(graph), stored_weights(model), Decoder(model, reader)
    found = rebuilding(graph, stored, reader)
    packed = [_row(name, decoder.array(name), None, weights, size, *stored[name]) for name, size in found.bytes.items()]
    left = [(name, tensor) for name, tensor in stored_tensors(graph) if name not in found.tensors]
    plain = [_plain_row(name, tensor, weights, reader) for name, tensor in left]
    nodes = [node for place, node in enumerate(graph.node) if place not in found.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return packed + plain


def _plain_row(
    name: str, tensor: onnx.TensorProto | onnx.SparseTensorProto, weights: set[str], reader: TensorReader
) -> LayerRow:
    """The row of a tensor that no nodes rebuild."""
    if isinstance(tensor, onnx.TensorProto):
        return _row(name, reader.array(tensor), tensor.data_type, weights, reader.size(tensor), "dense", "fp32")
    return _row(name, decode_coo(tensor), tensor.values.data_type, weights, tensor.ByteSize(), "coo", "fp32")


def _row(
    name: str, array: NDArray[Any], data_type: int | None, weights: set[str], stored: int, encoding: str, values: str
) -> LayerRow:
    """The row of an array; `data_type` is ONNX's, None the array's own."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype) if data_type is None else data_type
    dense = stored if (encoding, values) == ("dense", "fp32") else tensor_bytes(name, array)
    return LayerRow(
        name=name,
        shape=array.shape,
        dtype=dtype_name(kind),
        size=int(array.size),
        nonzeros=count_nonzeros(array),
        bytes_dense=dense,
        bytes_stored=stored,
        encoding=encoding,
        prunable=name in weights and is_matrix(kind, array.shape),
        values=values,
    )
