"""The tensors of an ONNX file as rows: initializers, packed weights, constants in nodes and functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.files.metadata import stored_weights
from sparsify_fx.onnx_export.files.reading import check_tensors, told_of
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx, tensor_bytes
from sparsify_fx.onnx_export.report.macs import layer_macs
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.storage.codecs.choosing import count_nonzeros
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.codecs.rebuilding import rebuilding
from sparsify_fx.onnx_export.storage.packable import dtype_name, is_matrix
from sparsify_fx.onnx_export.storage.quantized import zero_points_by_place
from sparsify_fx.onnx_export.storage.sparse_initializers import decode_coo
from sparsify_fx.onnx_tools.constants import Constant, constants, scopes
from sparsify_fx.onnx_tools.weights import function_weights, key_of, weight_values
from sparsify_fx.runtime.coded.weights import kind_of
from sparsify_fx.runtime.restore import sparse_weights, to_dense


def onnx_rows(file: Path) -> tuple[tuple[LayerRow, ...], tuple[str, ...]]:
    """One row per constant tensor: initializers, dense, sparse or packed, and those in nodes, graphs and functions.

    After the rows what the user should know about them. Raises ExportError when the file or its external data is
    missing, damaged or no ONNX.
    """
    model, reader = load_onnx(file), TensorReader(file.parent)
    with told_of(file):
        # 1. Damage first, so that errors below are told of the tensor and not of numpy.
        check_tensors(model)
        # 2. Sparse operators become dense ones, whose weights can be counted; how many
        # bytes they take in the file is noted before.
        held = {
            name: _held(model, node, reader)
            for name, node in sparse_weights(model).items()
        }
        model = to_dense(model, reader.array) if held else model
        # 3. Rows, then MACs from the shapes of the dense graph.
        rows = _rows(model, reader)
        macs = layer_macs(model, rows, {})
    rows = [replace(row, macs=macs.get(row.name)) for row in rows]
    shown = tuple(
        replace(
            row,
            encoding=SPARSE,
            bytes_stored=held[row.name][0],
            values=held[row.name][1],
        )
        if row.name in held
        else row
        for row in rows
    )
    return shown, tuple(
        _about_lost(stored_weights(model).keys() - {row.name for row in shown})
    )


def _about_lost(names: Collection[str]) -> Iterator[str]:
    """What packed weights the file speaks of that are not in it."""
    if names:
        some = ", ".join(map(repr, sorted(names)[:3])) + (
            ", ..." if len(names) > 3 else ""
        )
        yield (
            f"{len(names)} packed weights that the file's metadata name are not in it under these names ({some}): "
            "another program has renamed or changed them, and they do not count here; unpack files before giving them "
            "to others"
        )


def _held(
    model: onnx.ModelProto, node: onnx.NodeProto, reader: TensorReader
) -> tuple[int, str]:
    """Bytes of the tensors of a sparse operator's weight, and their kind of values."""
    parts = [each for each in model.graph.initializer if each.name in node.input[1:3]]
    kinds = [
        kind_of(reader.array(each)) for each in parts if each.name == node.input[1]
    ]
    return sum(map(reader.size, parts)), (kinds or ["fp32"])[0]


def _rows(model: onnx.ModelProto, reader: TensorReader) -> list[LayerRow]:
    """The rows without MACs; the nodes that rebuild weights are taken out of the model on the way."""
    graph, stored = model.graph, stored_weights(model)
    # 1. Weights that nodes rebuild from packed tensors: one row each, under the weight's name.
    found = rebuilding(graph, stored, reader)
    decoder = Decoder(model, reader)
    known = _Known(
        model, reader, {name: len(decoder.shape(name)) for name in found.bytes}
    )
    packed = [
        known.row(
            name,
            array,
            None,
            found.bytes[name],
            *stored[name],
            known.zeros.get((0, name)),
        )
        for name, array in decoder.arrays(found.bytes)
    ]

    # 2. All other constants, but for the tensors that were rebuilt from.
    plain = [
        known.plain_row(each)
        for each in constants(model)
        if each.scope or each.name not in found.tensors
    ]

    # 3. The rest of the graph, in which the weight has no maker any more, so that MACs find it as a constant.
    nodes = [node for place, node in enumerate(graph.node) if place not in found.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return packed + plain


def rows_beside(model: onnx.ModelProto, reader: TensorReader) -> tuple[LayerRow, ...]:
    """The rows of prunable weights that are no plain initializers of the main graph: what packing does not move."""
    known = _Known(model, reader, {})
    beside = [
        each for each in constants(model)
        if each.scope or each.node is not None or isinstance(each.tensor, onnx.SparseTensorProto)
    ]  # fmt: skip
    return tuple(row for row in map(known.plain_row, beside) if row.prunable)


class _Known:
    """What rows need to know of a whole model: which values are weights, and what means zero in them."""

    def __init__(
        self, model: onnx.ModelProto, reader: TensorReader, decoded: Mapping[str, int]
    ) -> None:
        self.reader, self.scopes = reader, scopes(model)
        self.weights = weight_values(model.graph, model.functions)
        self.inside = function_weights(model.functions)
        self.zeros = zero_points_by_place(model, reader.array, decoded)

    def plain_row(self, each: Constant) -> LayerRow:
        """The row of a tensor that no nodes rebuild."""
        tensor, function = each.tensor, self.scopes[each.scope].function
        if isinstance(tensor, onnx.TensorProto):
            array, kind, size, how = (
                self.reader.array(tensor),
                tensor.data_type,
                self.reader.size(tensor),
                "dense",
            )
        else:
            array, kind, size, how = (
                decode_coo(tensor, self.reader),
                tensor.values.data_type,
                tensor.ByteSize(),
                "coo",
            )
        zero = self.zeros.get((each.scope, each.name))
        if function is None:
            return self.row(each.name, array, kind, size, how, "fp32", zero)
        # Functions have names of their own, which may repeat those of the graph.
        name = f"{function.name}.{each.name}"
        return self.row(
            name,
            array,
            kind,
            size,
            how,
            "fp32",
            zero,
            each.name in self.inside[key_of(function)],
        )

    def row(
        self, name: str, array: NDArray[Any], kind: int | None, stored: int, encoding: str, values: str,
        zero: NDArray[Any] | None, weight: bool | None = None,
    ) -> LayerRow:  # fmt: skip
        """The row of an array; `kind` is ONNX's type, None the array's own; `zero`: what stands for zero in it."""
        kind = (
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype) if kind is None else kind
        )
        dense = (
            stored
            if (encoding, values) == ("dense", "fp32")
            else tensor_bytes(name, array)
        )
        return LayerRow(
            name=name,
            shape=array.shape,
            dtype=dtype_name(kind),
            size=int(array.size),
            nonzeros=count_nonzeros(array, zero),
            bytes_dense=dense,
            bytes_stored=stored,
            encoding=encoding,
            prunable=(name in self.weights if weight is None else weight)
            and is_matrix(kind, array.shape),
            values=values,
        )
