"""Weights of sparse operators with values of less than 32 bits: `export(target="sparse-ort", values=...)`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.storage.codecs import VALUES, Quantized, ValueKind, Weight
from sparsify_fx.onnx_export.storage.codecs.choosing import count_nonzeros, digest
from sparsify_fx.onnx_export.storage.packable import dtype_name
from sparsify_fx.onnx_tools.weights import channel_axes
from sparsify_fx.runtime.coded.weights import Bytes, Codes, encode_codes
from sparsify_fx.runtime.quantized.codes import Scale
from sparsify_fx.runtime.quantized.record import quantized_weights


@dataclass(frozen=True)
class Held:
    """A weight that a sparse operator holds: its row in the report, and the digest of what the file gives."""

    row: LayerRow
    digest: bytes


def hold_weights(
    sparse: onnx.ModelProto,
    dense: onnx.ModelProto,
    names: Collection[str],
    values: str,
    reader: TensorReader,
) -> dict[str, Held]:
    """Store the weights `names` of sparse operators with this kind of values, in place; what each of them became.

    `dense`: the model before, with the same weights as plain initializers. A weight that the kind cannot hold, or that
    a lossless one makes no smaller, keeps its float32 values.
    """
    axes, held = channel_axes(dense.graph), {}
    quantized = quantized_weights(sparse)
    parts = {tensor.name: tensor for tensor in sparse.graph.initializer}
    for tensor in dense.graph.initializer:
        if tensor.name not in names:
            continue
        stored = parts[f"{tensor.name}.values"], parts[f"{tensor.name}.gaps"]
        if tensor.name in quantized:
            scale = quantized[tensor.name].scale
            held[tensor.name] = _hold_codes(tensor, scale, stored, reader)
            continue
        weight = Weight(reader.array(tensor), axes.get(tensor.name, 0))
        held[tensor.name] = _hold(tensor, weight, stored, VALUES[values], reader)
    return held


def _hold(
    tensor: onnx.TensorProto,
    weight: Weight,
    stored: tuple[onnx.TensorProto, onnx.TensorProto],
    kind: ValueKind,
    reader: TensorReader,
) -> Held:
    """One weight; the tensors `stored` are exchanged in place."""
    array, used = weight.array, "fp32"
    before = sum(map(reader.size, stored))
    if kind.name != "fp32" and kind.refuses(weight) is None:
        quantized = kind.quantize(weight)
        coded = encode_codes(_codes(kind, quantized, weight))
        if not kind.lossless or sum(part.nbytes for part in coded) < before:
            array, used = quantized.decoded(), kind.name
            _exchange(stored, coded)
    row = _row(tensor, count_nonzeros(array), stored, used, reader)
    return Held(row, digest(array))


def _hold_codes(
    tensor: onnx.TensorProto,
    scale: Scale,
    stored: tuple[onnx.TensorProto, onnx.TensorProto],
    reader: TensorReader,
) -> Held:
    """A weight that came in 8 bits: it keeps its codes, or float32 where there is no room for these."""
    codes = reader.array(tensor)
    coded = scale.coded(codes)
    if coded is not None:
        _exchange(stored, encode_codes(coded))
    kind = "fp32" if coded is None else coded.kind
    nonzeros = count_nonzeros(scale.values_of(codes))
    return Held(_row(tensor, nonzeros, stored, kind, reader), digest(codes))


def _exchange(
    stored: tuple[onnx.TensorProto, onnx.TensorProto], coded: tuple[Bytes, Bytes]
) -> None:
    for part, data in zip(stored, coded, strict=True):
        part.CopyFrom(numpy_helper.from_array(data, part.name))


def _row(
    tensor: onnx.TensorProto,
    nonzeros: int,
    stored: tuple[onnx.TensorProto, onnx.TensorProto],
    values: str,
    reader: TensorReader,
) -> LayerRow:
    return LayerRow(
        name=tensor.name,
        shape=tuple(tensor.dims),
        dtype=dtype_name(tensor.data_type),
        size=math.prod(tensor.dims),
        nonzeros=nonzeros,
        bytes_dense=reader.size(tensor),
        bytes_stored=sum(map(reader.size, stored)),
        encoding=SPARSE,
        prunable=True,
        values=values,
    )


def _codes(kind: ValueKind, quantized: Quantized, weight: Weight) -> Codes:
    """What the kind of value made of the weight, in the words of the runtime."""
    axes = weight.array.ndim
    scale = None if quantized.scale is None else quantized.scale.reshape(-1)
    # A power of two, so its exponent is a whole number.
    unit = math.frexp(quantized.unit)[1] - 1
    last = scale is not None and weight.channel_axis % axes == axes - 1
    return Codes(kind.name, quantized.codes, scale, unit, last)


def rows_in_order(
    dense: onnx.ModelProto, rows: Mapping[str, LayerRow]
) -> tuple[LayerRow, ...]:
    """The rows of the weights of `dense`, in its order."""
    named = (tensor.name for tensor in dense.graph.initializer)
    return tuple(rows[name] for name in named if name in rows)
