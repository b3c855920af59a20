"""The memory of a placed weight, which is taken again for the next one of the same program.

A weight is made in every forward and gone after the backward. For large ones the allocator asks the system for fresh
pages each time, and clearing those takes longer than writing the weight.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from sparsify_fx.living.remembered import Remembered

# Below, allocators keep what is freed.
_LEAST_BYTES = 1 << 17

# By the places of the living entries: it goes when they do.
_SPARE: Remembered[list[Tensor]] = Remembered()
# How many own a storage: torch counts what a saved tensor, a view or an array of numpy holds as well.
_owners = getattr(torch._C, "_storage_Use_Count", None)


def memory_for(places: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU with any values, in the memory of the last one for these places if nothing holds that now.

    >>> places = torch.arange(3)
    >>> memory_for(places, torch.Size([2, 2]), torch.float32).shape
    torch.Size([2, 2])
    """
    if _owners is None or shape.numel() * dtype.itemsize < _LEAST_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    spares = _SPARE.made(places, list)
    # Popped, which no other thread can do to the same one; whoever finds none makes a new one.
    block = spares.pop() if spares else None
    if block is None or not _is_free(block, shape, dtype):
        # Inference tensors cannot be trained with, and the next forward may be one of training.
        with torch.inference_mode(False):
            block = torch.empty(shape, dtype=dtype, device="cpu")
    # Of its own version: torch must not take the writes of one forward for changes of what another one has saved.
    taken = block.data
    spares.append(block)
    return taken


def release() -> None:
    """Let go of all memory that is kept for the next weights."""
    _SPARE.forget()


def _is_free(block: Tensor, shape: torch.Size, dtype: torch.dtype) -> bool:
    if block.shape != shape or block.dtype != dtype:
        return False
    return not block.untyped_storage().is_shared() and _holders(block) == _ALONE


def _holders(block: Tensor) -> tuple[int, int]:
    """How many hold the memory of a tensor: in Python, where a storage is one object, and in torch."""
    storage = block.untyped_storage()
    return sys.getrefcount(storage), _owners(storage._cdata)  # type: ignore[misc]


# Counted, not known: one object more or less is a matter of torch's version.
_ALONE = _holders(torch.empty(1, device="cpu")) if _owners else (0, 0)
