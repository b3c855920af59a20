"""Quantized weights as compressed-tensors and torchao store them: unpacked, and their zeros at the zero point counted.

Source: the layouts of compressed-tensors 0.20 (pack-quantized, int-, float- and naive-quantized, nvfp4, mxfp4, mxfp6,
mxfp8) and torchao 0.18.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.counting import (
    Counted,
    dtype_text,
    entries,
    halves,
    nonzeros,
)

Beside = Mapping[str, Tensor]
"""The tensors beside the data of a weight: scale, zero_point, shape, g_idx, ..."""

_LIKELY = (
    4,
    8,
    2,
    1,
    3,
    5,
    6,
    7,
)  # narrow weights fit several widths; the rarest come last
_FP6 = 24  # bytes of data a byte-sized scale for 32 entries: 3/4 of 32; 16 or 8 for 4-bit floats


def packed_bits(data: Tensor, beside: Beside) -> int | None:
    """Bits of an entry of packed data, by the sizes; None for tensors that are not packed so.

    >>> packed_bits(torch.zeros(8, 16, dtype=torch.int32), {"scale": torch.ones(8, 1), "shape": torch.tensor([8, 128])})
    4
    """
    if data.dtype is torch.int32 and "shape" in beside and data.dim() >= 2:
        # 1. Integers in 32-bit words: entries that run on across words (since 0.20), or whole ones in each.
        columns = _shape(beside)[-1]
        fits = [
            bits
            for bits in _LIKELY
            if data.shape[-1] in (-(-columns * bits // 32), -(-columns // (32 // bits)))
        ]
        if (
            fits[:1] == [8]
            and columns > 4
            and not torch.count_nonzero(data & ~0x0FFFFFFF)
        ):
            return 7  # four a word before 0.20, as of eight bits, with four bits of each word empty
        return fits[0] if fits else None
    if (
        data.dtype is torch.uint8
        and "scale" in beside
        and data.dim() >= 2
        and beside["scale"].dim() == data.dim()
    ):
        # 2. Small floats in bytes, told apart by the bytes for each scale.
        return 6 if data.shape[-1] == _FP6 * beside["scale"].shape[-1] else 4
    return None


def quantized_count(data: Tensor, beside: Beside) -> Counted:
    """Count the entries of a quantized weight that are not its zero point.

    Raises CheckpointError when the tensors do not fit one another.
    """
    # Errors of torch on shapes that do not fit become one of our own, which names them.
    bits = packed_bits(data, beside)
    try:
        if bits is None:
            return _of_entries(
                data, beside, dtype_text(data.dtype), 8 * data.element_size()
            )
        if data.dtype is torch.int32:
            shape = _shape(beside)
            runs_on = data.shape[-1] == -(-shape[-1] * bits // 32)
            entries_of = _integers(data, bits, shape[-1], runs_on).reshape(shape)
            return _of_entries(entries_of, beside, f"int{bits}", bits, runs_on)
    except (RuntimeError, ValueError, IndexError) as error:
        sizes = {part: list(tensor.shape) for part, tensor in beside.items()}
        raise CheckpointError(
            f"data of {list(data.shape)} do not fit {sizes} beside them ({error})"
        ) from error
    return _of_floats(data, bits)


def _shape(beside: Beside) -> tuple[int, ...]:
    return tuple(int(length) for length in beside["shape"].reshape(-1).tolist())


def _of_entries(
    data: Tensor, beside: Beside, dtype: str, bits: int, runs_on: bool = True
) -> Counted:
    zero = beside.get("zero_point")
    if (
        zero is not None
        and zero.dtype is torch.int32
        and zero.dim() == data.dim()
        and zero.shape[-2] != data.shape[-2]
    ):
        zero = _integers(
            zero.mT.contiguous(), bits, data.shape[-2], runs_on
        ).mT  # packed along the rows
    # 1. Symmetric: zero is the code 0.
    if zero is None or not torch.count_nonzero(zero.float()):
        found = nonzeros(data)
    # 2. A zero point between two codes: no code is exactly zero.
    elif zero.is_floating_point():
        raise CheckpointError(
            "its zero point is no integer, so which entries are zero is not known; dequantize it"
        )
    else:
        found = int(
            torch.count_nonzero(
                data.to(torch.int32) != _spread(zero, data, beside.get("g_idx"))
            )
        )
    shape = tuple(data.shape)
    dense = -(-entries(shape) * bits // 8)
    return Counted(shape, dtype, found, dense, dense, "quantized", len(shape) >= 2)


def _spread(zero: Tensor, data: Tensor, groups: Tensor | None) -> Tensor:
    """The zero point of every entry: of blocks of equal size along each axis, or of the groups of the columns."""
    zero = zero.to(torch.int32)
    # 1. One for all.
    if zero.numel() == 1:
        return zero.reshape([1] * data.dim())
    # 2. One a row lacks the other axes: they follow.
    zero = zero.reshape(*zero.shape, *[1] * (data.dim() - zero.dim()))
    if (
        groups is not None and int(groups.min()) >= 0 and zero.shape[-1] > 1
    ):  # -1: not in an order of their own
        zero = zero.index_select(-1, groups.long())
    # 3. Blocks: repeated along the axis, the last one cut.
    for axis, (have, want) in enumerate(zip(zero.shape, data.shape, strict=True)):
        if have not in (1, want):
            zero = zero.repeat_interleave(-(-want // have), axis).narrow(axis, 0, want)
    return zero


def _integers(packed: Tensor, bits: int, columns: int, runs_on: bool) -> Tensor:
    """Signed integers out of int32 words along the last axis.

    Since 0.20 entries run on from word to word; before, each word held 32 // bits whole ones.
    """
    # int64, as a shift right of int32 would pull the sign in.
    words = packed.long() & 0xFFFFFFFF
    place = torch.arange(columns, device="cpu")
    if runs_on:
        # An entry may begin in one word and end in the next, so both are put together. The last
        # word has no next one, and needs none: its own bits are repeated above and masked.
        start = place * bits
        word, offset = start // 32, start % 32
        above = torch.clamp(word + 1, max=packed.shape[-1] - 1)
        both = words[..., word] | (words[..., above] << 32)
    else:
        word, offset = place // (32 // bits), place % (32 // bits) * bits
        both = words[..., word]
    # Stored with an offset of half the range.
    return ((both >> offset) & ((1 << bits) - 1)) - (1 << (bits - 1))


def _of_floats(data: Tensor, bits: int) -> Counted:
    """Floats of 4 bits, two a byte, or of 6 bits, four in three bytes; the highest bit is the sign."""
    columns = data.shape[-1] * 8 // bits
    if bits == 4:
        codes, dtype = halves(data), "float4_e2m1"
    else:
        # Four entries of 6 bits in three bytes, the first in the lowest bits.
        low, middle, high = data.reshape(*data.shape[:-1], -1, 3).int().unbind(-1)
        word = low | middle << 8 | high << 16
        codes, dtype = tuple(word >> shift for shift in (0, 6, 12, 18)), "float6_e2m3"  # type: ignore[assignment]
    found = sum(
        int(torch.count_nonzero(code & ((1 << (bits - 1)) - 1))) for code in codes
    )
    return Counted(
        (*data.shape[:-1], columns),
        dtype,
        found,
        data.nbytes,
        data.nbytes,
        "quantized",
        True,
    )
