"""Entries that move within a flattened tensor, together with their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify_fx.living.kernels import picked, placed


def sources(old: Tensor, new: Tensor, length: int) -> Tensor:
    """For each of `length` new entries its number among the old ones; −1 where the place is new, or there is none."""
    if old.numel() == 0 or new.numel() == 0:
        return torch.full((length,), -1, dtype=torch.int64, device=new.device)
    # Through a table of all places: two passes over memory, where a search among the old ones would jump about in it.
    # It is numbered from 1, so that 0 is what is not there.
    size = 1 + max(int(old[-1]), int(new[-1]))
    numbers = torch.arange(1, old.numel() + 1, dtype=old.dtype, device=old.device)
    table = placed(numbers, old, torch.Size([size]))
    return picked(table, new, into=new.new_zeros(length)).long() - 1


@torch.no_grad()
def move(
    tensor: Tensor,
    source: Tensor,
    fresh: float | Tensor = 0.0,
    shape: torch.Size | None = None,
) -> None:
    """Let a tensor hold the entries `source` of itself, flattened, in place; `fresh` where that is −1.

    A tensor whose shape stays keeps its memory. A gradient moves along, and is zero where entries are new.

    Args:
        shape: the new shape; None: that of a vector, [n, 1, ...].
    """
    gradient = tensor.grad if tensor.is_leaf else None
    new = _moved(tensor.detach(), source, fresh, shape)
    if new.shape == tensor.shape:
        tensor.copy_(new)
        if gradient is not None:
            gradient.copy_(_moved(gradient, source, 0.0, shape))
        return
    set_data(tensor, new)
    if gradient is not None:
        tensor.grad = _moved(gradient, source, 0.0, shape)


def _moved(
    tensor: Tensor, source: Tensor, fresh: float | Tensor, shape: torch.Size | None
) -> Tensor:
    source = source.to(tensor.device)
    taken = tensor.reshape(-1)[source.clamp(min=0)] if tensor.numel() else None
    value = torch.as_tensor(fresh, dtype=tensor.dtype, device=tensor.device)
    flat = value if taken is None else torch.where(source >= 0, taken, value)
    flat = flat.expand(source.numel()).contiguous()
    # State may be kept flattened, whatever the axes of the weight.
    if shape is not None and len(shape) == tensor.dim():
        return flat.view(shape)
    return flat.view(-1, *[1] * (tensor.dim() - 1))


def set_data(tensor: Tensor, new: Tensor) -> None:
    """`tensor.data = new` for another shape; the gradient is gone.

    A graph that is still alive (a loss that the loop has kept) holds the node that collects this parameter's gradient,
    and with it the old shape. torch forgets that node when the type changes, not when the shape does.
    """
    tensor.grad = None
    if tensor.requires_grad:
        other = torch.float64 if new.dtype != torch.float64 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=new.device)
    tensor.data = new
