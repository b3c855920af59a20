"""COO codec: tensors with many zeros as ONNX's standard `sparse_initializer`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.files.tensors import TensorReader

_TYPES = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8,
)


def encode_coo(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    """`tensor` as its non-zeros and their positions: flat[index[i]] = value[i], everything else +0.0.

    Shapes: any -> values [NNZ] raw, indices [NNZ] int64, linear in C order, ascending. An entry is left out only if
    all its bits are 0: -0.0 counts as a value, so decoding gives the same bits. Size: 4 bytes per value and 1 to 4
    per index, since `int64_data` is varint-coded (`raw_data` would take 8). Raises ExportError for other types than
    floats and int8.

    >>> sparse = encode_coo(numpy_helper.from_array(np.float32([[0, 2], [0, 0]]), "weight"))
    >>> list(sparse.indices.int64_data), decode_coo(sparse).tolist()
    ([1], [[0.0, 2.0], [0.0, 0.0]])

    Source: onnx.proto3, message SparseTensorProto.
    """
    if tensor.data_type not in _TYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ExportError(
            f"{tensor.name}: cannot be stored as COO: it is {kind}; only floats and int8 are supported"
        )
    # Compared as unsigned integers: as floats -0.0 equals 0.0 and would lose its sign.
    flat = np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(-1)
    positions = np.flatnonzero(flat.view(f"u{flat.dtype.itemsize}"))
    sparse = onnx.SparseTensorProto(dims=tensor.dims)
    sparse.values.CopyFrom(numpy_helper.from_array(flat[positions], tensor.name))
    sparse.indices.data_type = onnx.TensorProto.INT64
    sparse.indices.dims.append(len(positions))
    sparse.indices.int64_data.extend(positions.tolist())
    return sparse


def decode_coo(
    sparse: onnx.SparseTensorProto, reader: TensorReader | None = None
) -> NDArray[Any]:
    """The dense array of a sparse initializer, its shape from `dims`; linear [NNZ] or coordinate [NNZ, rank] indices.

    `reader` knows where external data lies. Raises ExportError, naming the tensor, when numbers of values and indices
    differ, an index lies outside, or the tensor would be larger than any memory.
    """
    name, shape = sparse.values.name, tuple(sparse.dims)
    # The shape is only a few bytes of the file, which would otherwise decide how much
    # memory is asked for.
    if min(shape, default=0) < 0 or math.prod(shape) >= 2**40:
        raise ExportError(
            f"{name}: no tensor has the shape {list(shape)}; the file is damaged, write it again"
        )
    reader = reader or TensorReader()
    try:
        values, indices = (
            reader.array(sparse.values).reshape(-1),
            reader.array(sparse.indices),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{name}: its sparse initializer is damaged ({error}); write the file again"
        ) from error
    if indices.ndim not in (1, 2) or len(indices) != len(values):
        raise ExportError(
            f"{name}: {len(values)} values but indices {list(indices.shape)}; expected one per value"
        )
    linear = _linear(name, indices, shape)
    # Checked before they are used: numpy would take a negative index from the end,
    # without a word.
    dense = np.zeros(math.prod(shape), values.dtype)
    if linear.size and not (linear.min() >= 0 and linear.max() < dense.size):
        raise ExportError(
            f"{name}: an index lies outside the {dense.size} entries of {list(shape)}"
        )
    dense[linear] = values
    return dense.reshape(shape)


def _linear(name: str, indices: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Linear positions from [NNZ] or [NNZ, rank] indices."""
    if indices.ndim == 1:
        return indices
    if indices.shape[1] != len(shape):
        raise ExportError(
            f"{name}: indices have {indices.shape[1]} coordinates, but the tensor has {len(shape)} axes"
        )
    strides = np.array(
        [math.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int64
    )
    # A coordinate that is too large may still give a linear position inside the tensor,
    # the wrong one.
    inside = ((indices >= 0) & (indices < np.array(shape))).all()
    if not inside:
        raise ExportError(f"{name}: an index lies outside shape {list(shape)}")
    linear: NDArray[Any] = indices @ strides
    return linear
