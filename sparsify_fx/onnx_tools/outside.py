"""Models beyond what one protobuf message can hold: their bytes, and their weights in a file beside them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import onnx

MAX_BYTES = 2**31 - 2**16
"""The largest ONNX file in bytes: protobuf's 2 GB less some room."""

_ALIGNMENT = 4096  # so that runtimes can map each tensor
_FROM = 4096  # bytes of a tensor that is worth a place outside
_LARGE = {"initializer", "sparse_initializer"}


def count_bytes(model: onnx.ModelProto) -> int:
    """The bytes of the serialized model, also where protobuf cannot serialize it; one tensor at a time is copied.

    >>> node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    >>> weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    >>> model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [weight]))
    >>> count_bytes(model) == model.ByteSize()
    True
    """
    # What protobuf cannot serialize it cannot count either. So: all but the tensors,
    # and each tensor by itself.
    rest, graph = onnx.ModelProto(), onnx.GraphProto()
    copy_but(model, rest, {"graph"})
    copy_but(model.graph, graph, _LARGE)
    tensors = (*model.graph.initializer, *model.graph.sparse_initializer)
    # Initializers are fields of the graph, which is a field of the model; each adds tag and length.
    inside = int(graph.ByteSize()) + sum(
        _as_field(int(tensor.ByteSize())) for tensor in tensors
    )
    return int(rest.ByteSize()) + (_as_field(inside) if model.HasField("graph") else 0)


def _as_field(size: int) -> int:
    """Bytes of a message of this size inside another one: a tag of one byte, the length in sevens of bits, itself."""
    return 1 + max(1, -(-size.bit_length() // 7)) + size


def copy_but(source: Any, target: Any, left_out: Collection[str]) -> None:
    """Copy all fields of a message but those named; `target` is an empty message of the same type."""
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        # A message, a repeated field, or a plain value: protobuf has a way to copy each.
        if hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)


def write_beside(model: onnx.ModelProto, path: Path) -> None:
    """Write the model to `path` and its large tensors to `path`.data, without copying more than one of them."""
    light = onnx.ModelProto()
    copy_but(model, light, {"graph"})
    # Sparse initializers stay inside: they are small, which is their point.
    copy_but(model.graph, light.graph, {"initializer"})
    # Relative, as ONNX has it: both files can be moved together.
    location = f"{path.name}.data"
    with path.with_name(location).open("wb") as stream:
        for tensor in model.graph.initializer:
            moves = worth_moving(tensor, int(tensor.ByteSize()))
            light.graph.initializer.append(
                moved_out(tensor, tensor_data(tensor), stream) if moves else tensor
            )
    path.write_bytes(light.SerializeToString(deterministic=True))


def worth_moving(tensor: onnx.TensorProto, size: int) -> bool:
    """Whether a tensor of `size` bytes is large, and of a type that can lie in another file."""
    return size >= _FROM and tensor.data_type != onnx.TensorProto.STRING


def tensor_data(tensor: onnx.TensorProto) -> bytes:
    """The values of a tensor that holds them, as they stand in `raw_data`."""
    # Tensors may hold typed fields instead; external data is always raw.
    return tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()


def moved_out(
    tensor: onnx.TensorProto, data: Any, stream: BinaryIO
) -> onnx.TensorProto:
    """Append `data`, bytes or a flat array of them, to `stream`; the tensor that refers to that place."""
    # Zeros up to the next page; -n % size is what is missing to a multiple.
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
    offset = stream.tell()
    stream.write(data)
    moved = onnx.TensorProto(
        name=tensor.name, dims=tensor.dims, data_type=tensor.data_type
    )
    moved.data_location = onnx.TensorProto.EXTERNAL
    place = {
        "location": Path(stream.name).name,
        "offset": offset,
        "length": stream.tell() - offset,
    }
    for key, value in place.items():
        moved.external_data.add(key=key, value=str(value))
    return moved
