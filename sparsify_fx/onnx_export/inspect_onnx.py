"""The tensors of an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.encodings import tensor_row
from sparsify_fx.onnx_export.report import LayerRow
from sparsify_fx.onnx_export.sparse_initializers import decode_coo
from sparsify_fx.onnx_export.weights import walk_graphs, weight_values


def onnx_rows(file: Path) -> tuple[LayerRow, ...]:
    """One row per initializer, dense or sparse, and per constant node, branches and loops included.

    Raises ExportError when the file or its external data is missing, damaged or no ONNX.
    """
    model = _load(file)
    weights = weight_values(model.graph)
    try:
        return tuple(_row(tensor, weights) for tensor in _tensors(model.graph))
    except (ValueError, TypeError) as error:
        raise ExportError(f"{file}: a tensor is damaged ({error}); write the file again") from error


def _load(file: Path) -> onnx.ModelProto:
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


def _row(tensor: onnx.TensorProto | onnx.SparseTensorProto, weights: set[str]) -> LayerRow:
    if isinstance(tensor, onnx.TensorProto):
        return tensor_row(tensor, None, weights)
    dense = numpy_helper.from_array(decode_coo(tensor), tensor.values.name)
    return tensor_row(dense, tensor.ByteSize(), weights)
