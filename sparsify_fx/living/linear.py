"""A linear layer on living entries: the gradient of its weight is never in memory as a whole.

The gradient of y = x Wᵀ in W is gᵀ x, as large as the weight; in living storage nine tenths of it are thrown away once
it is there. Here it is made in blocks of rows that stay in the second-level cache, and each block's living entries are
picked before the next takes its place. The products are the same, so the results are, to the bit.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.living.kernels import picked, placed
from sparsify_fx.living.place import pick, place

# Bytes of a block by the rows of the batch. Few rows: the product is a matter of memory, and the smaller the block the
# nearer it stays. More rows: the product is work, and a matrix library does it well in larger pieces alone, so that the
# block has to be as large as the second-level cache allows. Still more: memory no longer counts beside the work.
_BLOCKS = ((8, 1 << 17), (128, 1 << 20))
# Weights that are worth it: below, the gradient stays in the cache anyway.
_LEAST = 1 << 16
# With more threads the product of one block is too small to divide.
_MOST_THREADS = 4


def pays(mask: Tensor, inputs: Tensor) -> bool:
    """Whether blocks are possible here, and likely to be faster."""
    return (
        mask.dim() == 2
        and mask.numel() >= _LEAST
        and inputs.dim() >= 2
        and 0 < inputs.numel() <= _BLOCKS[-1][0] * inputs.shape[-1]
        and inputs.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.get_num_threads() <= _MOST_THREADS
        and not torch.is_autocast_enabled("cpu")
    )


def linear(
    inputs: Tensor, values: Tensor, places: Tensor, mask: Tensor, bias: Tensor | None
) -> Tensor:
    """`F.linear(inputs, place(values, places, mask), bias)`, with the gradient of the weight made in blocks.

    >>> mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    >>> values, places = torch.tensor([2.0, 3.0]), torch.tensor([0, 3], dtype=torch.int32)
    >>> linear(torch.tensor([[1.0, 1.0]]), values, places, mask, None)
    tensor([[2., 3.]])
    """
    result: Tensor = _Linear.apply(inputs, values, places, mask, bias)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, values, places, mask, bias = arguments
        weight = placed(values, places, mask.shape)
        # A parameter itself may be written before this goes backward, an optimizer's step between two losses: only
        # derivatives of gradients need it as it is now.
        ctx.leaf = (values, values._version) if values.is_leaf else None
        kept = None if values.is_leaf else values
        ctx.save_for_backward(inputs, weight, kept, places, mask)
        ctx.biased = bias is not None
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inputs, weight, kept, places, mask = ctx.saved_tensors
        rows, given = gradient.flatten(0, -2), inputs.flatten(0, -2)
        again = torch.is_grad_enabled()
        values = _unwritten(ctx.leaf, again) if kept is None else kept
        back = summed = made = None
        if ctx.needs_input_grad[0]:
            # A weight that can be derived again only where a graph of the gradients is wanted: it costs a placing.
            back = gradient @ (place(values, places, mask) if again else weight)
        if ctx.biased and ctx.needs_input_grad[4]:
            summed = rows.sum(0)
        if ctx.needs_input_grad[1]:
            made = (
                pick(rows.t() @ given, places, values.shape)
                if again
                else _in_blocks(rows, given, places, values.shape)
            )
        return back, made, None, None, summed


def _unwritten(leaf: tuple[Tensor, int], wanted: bool) -> Tensor:
    """A parameter; where its values are wanted it must not have been written since the forward."""
    values, version = leaf
    if wanted and values._version != version:
        raise RuntimeError(
            "a weight was modified in place between a forward and the backward with create_graph=True that needs it; "
            "go backward before the optimizer's step"
        )
    return values


def _in_blocks(
    gradient: Tensor, inputs: Tensor, places: Tensor, shape: torch.Size
) -> Tensor:
    """The living entries of gradientᵀ inputs, [rows of the weight, columns], in `shape`.

    Each entry is the same sum in the same order as in the whole product: blocks are of rows, and rows are independent.
    """
    rows, columns = gradient.shape[1], inputs.shape[1]
    size = next((size for most, size in _BLOCKS if len(gradient) <= most), 1 << 20)
    height = max(1, size // (columns * gradient.element_size()))
    starts = _starts(places, height * columns, rows * columns)
    block = gradient.new_empty(min(height, rows), columns)
    made = gradient.new_zeros(shape)
    flat, turned = made.view(-1), gradient.t()
    for number, (first, last) in enumerate(itertools.pairwise(starts)):
        if first == last:
            continue
        top = number * height
        part = block[: min(height, rows - top)]
        torch.mm(turned[top : top + height], inputs, out=part)
        picked(part, places[first:last], into=flat[first:last], origin=top * columns)
    return made


def _starts(places: Tensor, size: int, total: int) -> list[int]:
    """Where the places of each block of `size` entries begin among all, and where the last one's end."""
    known = getattr(places, "_starts", None)
    # Averages copy buffers in place, and these with them.
    made_of = (size, places._version)
    if known is None or known[0] != made_of:
        bounds = torch.arange(0, total + size, size, dtype=torch.int64)
        known = (made_of, torch.searchsorted(places, bounds.to(places.dtype)).tolist())
        places._starts = known  # type: ignore[attr-defined]
    found: list[int] = known[1]
    return found
