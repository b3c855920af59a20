"""Bytes of a tensor as a part of a file."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray


def tensor_bytes(name: str, array: NDArray[Any]) -> int:
    """Bytes of the serialised initializer, as `TensorProto.ByteSize()` counts them."""
    shell: int = onnx.TensorProto(name=name, dims=array.shape, data_type=1).ByteSize()
    return shell + array.nbytes + 1 + max(1, -(-array.nbytes.bit_length() // 7))
