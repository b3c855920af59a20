"""The tensors of an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.codecs.choosing import count_nonzeros
from sparsify_fx.onnx_export.codecs.decoding import Decoder, rebuilding
from sparsify_fx.onnx_export.codecs.parts import tensor_bytes
from sparsify_fx.onnx_export.encodings import dtype_name, is_matrix
from sparsify_fx.onnx_export.metadata import stored_weights
from sparsify_fx.onnx_export.report import LayerRow
from sparsify_fx.onnx_export.sparse_initializers import decode_coo
from sparsify_fx.onnx_export.weights import walk_graphs, weight_values


def onnx_rows(file: Path) -> tuple[LayerRow, ...]:
    """One row per initializer, dense, sparse or packed, and per constant node, branches and loops included.

    Raises ExportError when the file or its external data is missing, damaged or no ONNX.
    """
    model = load_onnx(file)
    weights, stored = weight_values(model.graph), stored_weights(model)
    found = rebuilding(model.graph, stored)
    decoder = Decoder(model)
    try:
        packed = [
            _row(name, decoder.array(name), None, weights, found.bytes[name], *how) for name, how in stored.items()
        ]
        plain = [_plain_row(tensor, weights) for tensor in _tensors(model.graph) if _name(tensor) not in found.tensors]
    except (ValueError, TypeError) as error:
        raise ExportError(f"{file}: a tensor is damaged ({error}); write the file again") from error
    return (*packed, *plain)


def load_onnx(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(file), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ExportError(f"{file} is not a whole ONNX file ({error}); it may be truncated: write it again") from error
    if (
        not model.ir_version
        or not model.opset_import
        or not model.graph.name + "".join(n.op_type for n in model.graph.node)
    ):
        raise ExportError(f"{file} holds no ONNX model; it may be truncated or of another kind: write it again")
    try:
        external_data_helper.load_external_data_for_model(model, str(file.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ExportError(f"{file}: its external data cannot be read ({error}); keep both files together") from error
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto | onnx.SparseTensorProto]:
    """Every stored tensor, under the name of the value it gives."""
    for inner in walk_graphs(graph):
        yield from inner.initializer
        yield from inner.sparse_initializer
        for node in inner.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.HasField("t"):
                    attribute.t.name = node.output[0]
                    yield attribute.t
                elif attribute.HasField("sparse_tensor"):
                    attribute.sparse_tensor.values.name = node.output[0]
                    yield attribute.sparse_tensor


def _name(tensor: onnx.TensorProto | onnx.SparseTensorProto) -> str:
    return tensor.name if isinstance(tensor, onnx.TensorProto) else tensor.values.name


def _plain_row(tensor: onnx.TensorProto | onnx.SparseTensorProto, weights: set[str]) -> LayerRow:
    """The row of a tensor that no nodes rebuild."""
    if isinstance(tensor, onnx.TensorProto):
        array, kind, how = numpy_helper.to_array(tensor), tensor.data_type, "dense"
    else:
        array, kind, how = decode_coo(tensor), tensor.values.data_type, "coo"
    return _row(_name(tensor), array, kind, weights, tensor.ByteSize(), how, "fp32")


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
