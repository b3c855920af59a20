"""Quantized state in tensor subclasses, as torchao has it: codes of 8 or 4 bits, and a scale for each block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_quantized(tensor: Tensor) -> bool:
    """Whether it is a tensor of codes in blocks, of a class that reads itself by `dequantize()`."""
    return type(tensor).dequantize is not Tensor.dequantize


def has_zero(tensor: Any) -> bool:
    """Whether its codes can say 0: torchao's unsigned 4-bit ones cannot."""
    table = getattr(tensor, "qmap", None)
    return table is None or bool((table == 0).any())


def write_blocks(tensor: Any, entries: Tensor, value: Tensor | float) -> None:
    """Put `value` at `entries` (bool, the tensor's shape).

    Zero is written as a code, so that the other entries keep their bits; blocks that become zero wholly get the scale
    0, with which they began. Anything else is read, edited and quantized again.
    """
    # 1. Values other than zero need the scale of their block, which depends on all of it: read, edit, quantize again.
    #    That moves the other entries of the block by rounding.
    codes = getattr(tensor, "codes", None)
    if isinstance(value, Tensor) or value != 0 or codes is None:
        whole = tensor.dequantize()
        edited = (
            torch.where(entries, value, whole)
            if isinstance(value, Tensor)
            else whole.masked_fill(entries, value)
        )
        tensor.copy_(edited)
        return
    # 2. Zero needs no scale. Its code is the table's entry nearest to 0; without a table (fp8) the bits of 0 are 0.
    zero = (
        0 if getattr(tensor, "qmap", None) is None else int(tensor.qmap.abs().argmin())
    )
    if codes.numel() == entries.numel():
        codes.view(torch.uint8).masked_fill_(entries.reshape(codes.shape), zero)
    else:
        # Two codes in a byte, the first one in its upper half.
        first, second = entries.flatten().view(-1, 2).unbind(1)
        upper = torch.where(first, zero, codes >> 4)
        lower = torch.where(second, zero, codes & 15)
        codes.copy_((upper << 4) | lower)
    # The scale too: later updates of a block of zeros should find it as a new one is.
    tensor.scale.masked_fill_(
        entries.flatten().view(tensor.scale.numel(), -1).all(1), 0
    )
