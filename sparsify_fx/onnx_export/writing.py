"""Write an ONNX model whole and checked, with external data where one file cannot hold it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files import write_checked
from sparsify_fx.onnx_export.tensors import TensorReader

T = TypeVar("T")

MAX_BYTES = 2**31 - 2**16
"""The largest ONNX file in bytes: protobuf's 2 GB less some room."""

_EXTERNAL_FROM = 4096  # bytes of a tensor that is worth a place outside
_ALIGNMENT = 4096  # so that runtimes can map each tensor
_CHUNK = 2**24


def write_model(target: Path, model: onnx.ModelProto, reader: TensorReader, check: Callable[[Path], T]) -> T:
    """Write `model` beside `target`, run `check` on the file, then rename it; returns what check returned.

    Up to `MAX_BYTES` everything is in one file; a larger model gets `target`.data beside it. `reader` finds external
    data that `model` refers to. The tensors of `model` are moved out of it on the way. Raises ExportError when the
    disk refuses the data; whatever `check` raises passes through; nothing half-written stays.
    """
    if sum(reader.size(tensor) for tensor in model.graph.initializer) < MAX_BYTES:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(reader.inline(tensor))
        return write_checked(target, serialised(model), check)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        data, written = folder / f"{target.name}.data", folder / target.name
        with data.open("xb") as stream:
            for tensor in model.graph.initializer:
                _move_out(tensor, reader, stream, data.name)
            _to_disk(stream)
        with written.open("xb") as stream:
            stream.write(serialised(model))
            _to_disk(stream)
        result = check(written)
        os.replace(data, target.with_name(data.name))
        os.replace(written, target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error}; free some space or choose another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def model_bytes(model: onnx.ModelProto, reader: TensorReader) -> int:
    """Bytes of the model with all its tensors in one file, whether or not one file can hold it."""
    inside = sum(int(tensor.ByteSize()) for tensor in model.graph.initializer)
    if inside < MAX_BYTES:
        outside = sum(reader.size(tensor) - int(tensor.ByteSize()) for tensor in model.graph.initializer)
        return int(model.ByteSize()) + outside
    return sum(reader.size(tensor) for tensor in model.graph.initializer)


def serialised(model: onnx.ModelProto) -> bytes:
    """The bytes of the file, the same ones every time."""
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportError("the ONNX file would exceed 2 GB without its initializers; export a smaller model") from error
    return data


def _move_out(tensor: onnx.TensorProto, reader: TensorReader, stream: BinaryIO, location: str) -> None:
    """Append the data of a large tensor to `stream`, and leave a reference in its place."""
    if reader.size(tensor) < _EXTERNAL_FROM or tensor.data_type == onnx.TensorProto.STRING:
        tensor.CopyFrom(reader.inline(tensor))
        return
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
    offset = stream.tell()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        mapped = reader.mapped(tensor)
        for start in range(0, mapped.size, _CHUNK):
            stream.write(mapped[start : start + _CHUNK].data)
    else:
        stream.write(tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes())
    length = stream.tell() - offset
    moved = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    moved.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        moved.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(moved)


def _to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
