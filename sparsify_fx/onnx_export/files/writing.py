"""Write an ONNX model whole and checked, with external data where one file cannot hold it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import onnx

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files.pieces import model_pieces
from sparsify_fx.onnx_export.files.targets import write_checked
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_tools import outside

T = TypeVar("T")


def write_model(
    target: Path,
    model: onnx.ModelProto,
    reader: TensorReader,
    check: Callable[[Path], T],
) -> T:
    """Write `model` beside `target`, run `check` on the file, then rename it; returns what check returned.

    Up to `outside.MAX_BYTES` everything is in one file; a larger model gets `target`.data beside it. `reader` finds
    external data that `model` refers to; its tensors refer to what is written afterwards. Raises ExportError when the
    disk refuses the data; whatever `check` raises passes through; nothing half-written stays.
    """
    if model_bytes(model, reader) < outside.MAX_BYTES:
        # 1. One file. In pieces, since a model serialized at once is in memory several
        # times.
        result = write_checked(target, model_pieces(model, reader), check)
        for tensor in model.graph.initializer:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        return result

    # 2. Two files: they refer to each other by name, so they are checked in a folder of
    # their own, where both already have their final names.
    folder = Path(
        tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    )
    try:
        data, written = folder / f"{target.name}.data", folder / target.name
        with data.open("xb") as stream:
            for tensor in model.graph.initializer:
                tensor.CopyFrom(_moved_out(tensor, reader, stream))
            _to_disk(stream)
        with written.open("xb") as stream:
            stream.write(serialized(model))
            _to_disk(stream)
        result = check(written)
        # The data first: whoever opens the model between the two renames finds what
        # belongs to it.
        os.replace(data, target.with_name(data.name))
        os.replace(written, target)
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def model_bytes(model: onnx.ModelProto, reader: TensorReader) -> int:
    """Bytes of the model with all its tensors in one file, whether or not one file can hold it."""
    # Data inside is counted as it is; data outside as if it were inside.
    elsewhere = sum(
        reader.size(tensor) - int(tensor.ByteSize())
        for tensor in model.graph.initializer
    )
    return outside.count_bytes(model) + elsewhere


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of the file, the same ones every time; ExportError where one file cannot hold them."""
    if outside.count_bytes(model) >= outside.MAX_BYTES:
        raise ExportError(
            "the ONNX file would exceed 2 GB, and coo has no place for weights outside of it; use encoding gap"
        )
    # Deterministic, so that equal models give equal files: maps have no order of their
    # own.
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _moved_out(
    tensor: onnx.TensorProto, reader: TensorReader, stream: BinaryIO
) -> onnx.TensorProto:
    """The tensor with its data in `stream`, or inside where it is small."""
    if not outside.worth_moving(tensor, reader.size(tensor)):
        return reader.inline(tensor)
    held = tensor.data_location != onnx.TensorProto.EXTERNAL
    return outside.moved_out(
        tensor, outside.tensor_data(tensor) if held else reader.mapped(tensor), stream
    )


def _to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
