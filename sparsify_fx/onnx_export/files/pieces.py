"""The bytes of an ONNX file piece by piece: to serialize a large model at once takes several copies of it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_tools import outside

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def model_pieces(model: onnx.ModelProto, reader: TensorReader) -> Iterator[bytes]:
    """The bytes of the model with all data inside, in order; joined they are what `serialized` gives for it.

    Fields are written in the order of their numbers, so initializers lie between two parts of the graph, and the graph
    between two parts of the model.
    """
    graph = model.graph
    first, last = _around(model, "graph")
    before, after = _around(graph, "initializer")
    # Lengths stand before contents in protobuf, so all sizes are needed before the first
    # byte is written.
    heads = [
        _head(_INITIALIZER, _whole_bytes(tensor, reader))
        for tensor in graph.initializer
    ]
    inside = sum(
        len(head) + _whole_bytes(tensor, reader)
        for head, tensor in zip(heads, graph.initializer, strict=True)
    )
    yield first + _head(_GRAPH, len(before) + inside + len(after)) + before
    for head, tensor in zip(heads, graph.initializer, strict=True):
        yield head
        yield reader.inline(tensor).SerializeToString(deterministic=True)
    yield after + last


def _around(message: Message, field: str) -> tuple[bytes, bytes]:
    """The bytes of the fields before this one, and of those after it."""
    number = message.DESCRIPTOR.fields_by_name[field].number
    numbers = {other.name: other.number for other in message.DESCRIPTOR.fields}
    halves = []
    # protobuf has no way to serialize a part of a message, so a copy without the other
    # fields is made.
    for left_out in (
        {name for name, other in numbers.items() if other >= number},
        {name for name, other in numbers.items() if other <= number},
    ):
        half = type(message)()
        outside.copy_but(message, half, left_out)
        halves.append(half.SerializeToString(deterministic=True))
    return halves[0], halves[1]


def _whole_bytes(tensor: onnx.TensorProto, reader: TensorReader) -> int:
    """Bytes of the tensor with its data inside."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return int(tensor.ByteSize())
    # The size without the data, since only its length is needed here: the data may be
    # gigabytes on the disk.
    shell = onnx.TensorProto(
        name=tensor.name, dims=tensor.dims, data_type=tensor.data_type
    )
    length = int(reader.mapped(tensor).size)
    return int(shell.ByteSize()) + len(_head(_RAW_DATA, length)) + length


def _head(number: int, size: int) -> bytes:
    """What stands before a field of this number that has `size` bytes."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(value: int) -> bytes:
    """7 bits a byte, the lowest first; all bytes but the last have the highest bit set.

    >>> _varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
