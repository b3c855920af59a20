"""Read the arrays of a model's tensors where they are: inside the file, or in external data beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools.soundness import damaged_text

_PACKED_TYPES = {
    onnx.TensorProto.DataType.Value(name)
    for name in ("UINT4", "INT4", "FLOAT4E2M1", "INT2", "UINT2")
    if name in set(onnx.TensorProto.DataType.keys())
}
"""Two or four entries to a byte: numpy cannot map these."""


@dataclass(frozen=True)
class TensorReader:
    """Arrays of tensors; `folder`: where external data lies, None when there is none.

    External data is mapped, not read: only the parts that are looked at take memory. Raises ExportError when it is
    missing, too short, or outside of the folder.
    """

    folder: Path | None = None

    def array(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The tensor's array; of external data read-only."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        if tensor.data_type in _PACKED_TYPES:
            return np.asarray(numpy_helper.to_array(self.inline(tensor)))
        # External data is little-endian, whatever the machine.
        dtype = np.dtype(
            helper.tensor_dtype_to_np_dtype(tensor.data_type)
        ).newbyteorder("<")
        # Compared before it is viewed: a file that is damaged may give any length.
        mapped = self.mapped(tensor)
        if mapped.nbytes != math.prod(tensor.dims) * dtype.itemsize:
            raise ExportError(
                f"{tensor.name}: its external data has {mapped.nbytes} bytes, not what its shape needs"
            )
        return mapped.view(dtype).reshape(tuple(tensor.dims))

    def mapped(self, tensor: onnx.TensorProto) -> NDArray[np.uint8]:
        """The bytes of external data, mapped."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path, offset = (
            self._path(tensor.name, entries.get("location", "")),
            int(entries.get("offset", 0)),
        )
        size = path.stat().st_size if path.is_file() else -1
        # ONNX lets the length be left out: then the data goes to the end of the file.
        length = int(entries.get("length", max(0, size - offset)))
        if size < 0 or offset < 0 or length < 0 or offset + length > size:
            raise ExportError(
                f"{tensor.name}: its external data cannot be read: {path.name} is missing or shorter than "
                f"{offset + length} bytes; keep both files together"
            )
        return (
            # numpy maps no empty range.
            np.memmap(path, np.uint8, "r", offset, (length,))
            if length
            else np.zeros(0, np.uint8)
        )

    def _path(self, name: str, location: str) -> Path:
        """The file that holds the data; it must lie in the model's folder."""
        if self.folder is None or not location:
            raise ExportError(
                f"{name}: its external data has no location; write the file again"
            )
        # Links are followed before the comparison: a stranger's model must not read files
        # from elsewhere on the machine.
        path = (self.folder / location).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ExportError(
                f"{name}: its external data lies outside the model's folder: {location}; move it there"
            )
        return path

    def inline(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The tensor with its data inside; itself when it is there already."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        whole = onnx.TensorProto(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type
        )
        whole.raw_data = self.mapped(tensor).tobytes()
        return whole

    def size(self, tensor: onnx.TensorProto) -> int:
        """Bytes of the tensor, with its data, as a part of the file."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return int(tensor.ByteSize())
        return tensor_bytes(tensor.name, self.mapped(tensor))


def tensor_bytes(name: str, array: NDArray[Any]) -> int:
    """Bytes of the serialized initializer, as `TensorProto.ByteSize()` counts them."""
    # The data without copying it: one byte of tag, and as many for the length as 7 bits
    # of it each need.
    shell: int = onnx.TensorProto(name=name, dims=array.shape, data_type=1).ByteSize()
    return shell + array.nbytes + 1 + max(1, -(-array.nbytes.bit_length() // 7))


def load_onnx(file: Path) -> onnx.ModelProto:
    """The model in a file, its external data not loaded; ExportError for anything that is no whole ONNX model."""
    if not file.is_file():
        raise ExportError(
            f"cannot read {file}: it {'is a folder' if file.is_dir() else 'does not exist'}"
        )
    try:
        # The format is given, since onnx would choose another by the suffix.
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ExportError(
            f"{file} is not a whole ONNX file ({error}); it may be truncated: write it again"
        ) from error
    if (reason := damaged_text(model)) is not None:
        raise ExportError(f"{file} is damaged: {reason}; write or download it again")
    # protobuf parses much that is no model, an empty file too. So the fields that every
    # model has must be there.
    named = model.graph.name + "".join(node.op_type for node in model.graph.node)
    if not (model.ir_version and model.opset_import and named):
        raise ExportError(
            f"{file} holds no ONNX model; it may be truncated or of another kind: write it again"
        )
    return model
