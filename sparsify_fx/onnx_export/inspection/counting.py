"""Counting what is not zero in one stored tensor, whatever its layout and element type; zero is the zero point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.errors import CheckpointError

_CHUNK = 1 << 22  # entries that are converted at a time
_OTHER_NAME = {
    torch.sparse_coo: "coo",
    torch.sparse_csr: "csr",
    torch.sparse_csc: "csc",
    torch.sparse_bsr: "bsr",
}
_BITS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
_BITS |= {torch.bits8: torch.uint8, torch.bits16: torch.int16}


@dataclass(frozen=True)
class Counted:
    """One weight: `dtype` of its entries, sizes in bytes; `is_weight`: a matrix of numbers, so prunable."""

    shape: tuple[int, ...]
    dtype: str
    nonzeros: int
    bytes_dense: int
    bytes_stored: int
    encoding: str
    is_weight: bool

    @property
    def size(self) -> int:
        """The number of entries, zeros included."""
        return entries(self.shape)


def entries(shape: tuple[int, ...] | torch.Size) -> int:
    """The product of the axes, which for sizes out of a file may exceed 64 bits."""
    # Python's numbers: a damaged file can claim shapes whose size overflows in torch.
    product = 1
    for length in shape:
        product *= length
    return product


def dtype_text(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def count(tensor: Tensor) -> Counted:
    """Count a dense, sparse (COO, CSR, CSC, BSR, BSC) or quantized tensor of any element type.

    Raises CheckpointError for tensors on the meta device, which have no values.

    >>> count(torch.eye(4).to_sparse()).nonzeros
    4
    """
    if tensor.is_meta:
        raise CheckpointError(
            "has no data: it was saved from the meta device; load the weights before they are saved "
            "(model.to_empty, then load_state_dict)"
        )
    # Sparse and quantized tensors have no dense storage to look into, so they go first.
    if tensor.layout is not torch.strided:
        return _sparse(tensor)
    if tensor.is_quantized:
        return _quantized(tensor)
    size, dtype = tensor.element_size() * tensor.numel(), dtype_text(tensor.dtype)
    shape = tuple(tensor.shape)
    if (
        tensor.dtype is torch.float4_e2m1fn_x2
    ):  # two entries a byte, along the last axis
        shape, dtype = (*shape[:-1], 2 * shape[-1]) if shape else (2,), "float4_e2m1"
    return Counted(
        shape, dtype, nonzeros(tensor), size, size, "dense", len(shape) >= 2 and tensor.is_floating_point()
    )  # fmt: skip


def nonzeros(tensor: Tensor) -> int:
    """The entries of a dense tensor that are not zero; types for which torch has no count go through another.

    >>> nonzeros(torch.tensor([0.0, -0.0, 2.0]).to(torch.float8_e4m3fn))
    1
    """
    tensor, repeats = _without_repeats(tensor.detach())
    return repeats * _nonzeros(tensor)


def check_size(tensor: Tensor) -> None:
    """CheckpointError for a tensor whose entries share places in the file: it may be of any size."""
    if _without_repeats(tensor.detach())[1] > 1:
        raise CheckpointError(
            f"its {list(tensor.shape)} entries share places in the file; save a contiguous copy"
        )


def _without_repeats(tensor: Tensor) -> tuple[Tensor, int]:
    """A dense tensor of which no axis repeats one entry, as `expand` makes them, and how often that one stands for."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return tensor, 1
    repeats = 1
    # A stride of 0 repeats one entry along its axis: a few bytes in a file can claim
    # terabytes, which no loop here may walk over.
    for axis, (length, stride) in enumerate(
        zip(tensor.shape, tensor.stride(), strict=True)
    ):
        if length > 1 and stride == 0:
            tensor, repeats = tensor.narrow(axis, 0, 1), repeats * length
    # Other strides can overlap as well; such a tensor has no number of entries of its own.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"its {list(tensor.shape)} entries overlap in the file; save a contiguous copy"
        )
    return tensor, repeats


def _nonzeros(tensor: Tensor) -> int:
    # 1. Unsigned and raw types have no kernel: their bits, read as another type, are zero together.
    if tensor.dtype in _BITS:
        return int(torch.count_nonzero(tensor.contiguous().view(_BITS[tensor.dtype])))
    # 2. Two floats a byte; without the sign bit -0.0 is zero too.
    if tensor.dtype is torch.float4_e2m1fn_x2:
        return sum(
            int(torch.count_nonzero(nibbles & 7))
            for nibbles in halves(tensor.contiguous().view(torch.uint8))
        )
    # 3. float8 has no kernel either, and -0.0 has bits: converted piece by piece.
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return sum(int(torch.count_nonzero(chunk.float())) for chunk in chunks(tensor))
    return int(torch.count_nonzero(tensor))


def halves(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper four bits of bytes."""
    return packed & 15, packed >> 4


def chunks(tensor: Tensor) -> Iterator[Tensor]:
    """The entries in pieces, so that a conversion needs little memory."""
    flat = tensor.reshape(-1)
    yield from (flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK))


def _sparse(tensor: Tensor) -> Counted:
    """A sparse tensor; entries that it stores and that are zero count as zeros."""
    # COO may hold an entry twice, which adds up, perhaps to zero.
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        index: tuple[Tensor, ...] = (tensor.indices(),)
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        index = (tensor.crow_indices(), tensor.col_indices())
    else:
        index = (tensor.ccol_indices(), tensor.row_indices())
    values = tensor.values()
    stored = values.nbytes + sum(each.nbytes for each in index)
    dense = entries(tensor.shape) * values.element_size()
    encoding = _OTHER_NAME.get(tensor.layout, "bsc")
    is_weight = tensor.dim() >= 2 and values.is_floating_point()
    return Counted(
        tuple(tensor.shape),
        dtype_text(tensor.dtype),
        nonzeros(values),
        dense,
        stored,
        encoding,
        is_weight,
    )


_SCALES: dict[torch.qscheme, Callable[[Tensor], int]] = {
    torch.per_tensor_affine: lambda tensor: (
        16
    ),  # scale and zero point: eight bytes each
    torch.per_channel_affine: lambda tensor: tensor.q_per_channel_scales().nbytes * 2,
    torch.per_channel_affine_float_qparams: lambda tensor: (
        tensor.q_per_channel_scales().nbytes * 2
    ),
}


def _quantized(tensor: Tensor) -> Counted:
    """A quantized tensor: scale * (q - zero point) is zero at the zero point, and nowhere else."""
    # Dequantized it takes four times its memory, so its size must be its own.
    check_size(tensor)
    count = int(torch.count_nonzero(tensor.dequantize()))
    # Types of less than a byte are stored together.
    packed = {torch.quint4x2: 2, torch.quint2x4: 4}.get(tensor.dtype, 1)
    dense = -(-tensor.numel() * tensor.element_size() // packed)
    stored = dense + _SCALES[tensor.qscheme()](tensor)
    is_weight = tensor.dim() >= 2
    return Counted(
        tuple(tensor.shape),
        dtype_text(tensor.dtype),
        count,
        dense,
        stored,
        "quantized",
        is_weight,
    )
