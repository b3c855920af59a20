"""A linear layer on living entries: neither its weight nor the gradient of that is ever in memory as a whole.

Both are made in blocks, see `sparsify_fx.living.blocks`, where the results are those of dense matrices to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify_fx.living.blocks import (
    GROUP,
    MOST_ROWS,
    Entries,
    input_gradients,
    outputs,
    weight_gradients,
)
from sparsify_fx.living.place import is_plain, pick, place

# Weights that are worth it: below, they and their gradients stay in the cache anyway.
_LEAST = 1 << 16
# With more living entries than one in so many, placing them twice takes longer than going through a whole weight.
_SHARE = 4
# With more threads the product of one block is too small to divide.
_MOST_THREADS = 4


def pays(mask: Tensor, places: Tensor, inputs: Tensor) -> bool:
    """Whether blocks are possible here, and likely to be faster."""
    return (
        mask.dim() == 2
        and _SHARE * places.numel() <= mask.numel()
        and mask.numel() >= _LEAST
        and mask.shape[0] % GROUP == mask.shape[1] % GROUP == 0
        and inputs.dtype == torch.float32
        and inputs.dim() >= 2
        and 0 < inputs.numel() <= MOST_ROWS * inputs.shape[-1]
        and inputs.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.get_num_threads() <= _MOST_THREADS
        and not torch.is_autocast_enabled("cpu")
    )


def linear(
    inputs: Tensor,
    values: Tensor,
    places: Tensor,
    mask: Tensor,
    factor: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """`F.linear(inputs, place(values, places, mask, factor), bias)`, in blocks.

    >>> mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    >>> values, places = torch.tensor([2.0, 3.0]), torch.tensor([0, 3], dtype=torch.int32)
    >>> linear(torch.tensor([[1.0, 1.0]]), values, places, mask, None, None)
    tensor([[2., 3.]])
    """
    if factor is not None and (
        factor.shape != values.shape
        or not values.requires_grad
        or not factor.requires_grad
    ):
        values, factor = values * factor, None
    result: Tensor = _Linear.apply(inputs, values, factor, places, mask, bias)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, values, factor, places, mask, bias = arguments
        weight = Entries(values, factor, places, mask.shape)
        made = outputs(inputs, weight, bias)
        # A parameter itself may be written before this goes backward, an optimizer's step between two losses: it goes
        # backward with the values as they are now. Factors of a product are needed unwritten, as those of m * w are.
        alone = values.is_leaf and factor is None
        ctx.leaf = (values, values._version) if alone else None
        kept = values.detach().clone() if alone else values
        ctx.save_for_backward(inputs, kept, factor, places, mask)
        ctx.biased = bias is not None
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inputs, values, factor, places, mask = ctx.saved_tensors
        back = summed = None
        made: tuple[Tensor | None, Tensor | None] = (None, None)
        rows = gradient.reshape(-1, gradient.shape[-1])
        given = inputs.reshape(-1, inputs.shape[-1])
        if ctx.biased and ctx.needs_input_grad[5]:
            summed = rows.sum(0)
        if torch.is_grad_enabled() or not is_plain(gradient):
            # A graph of the gradients is wanted, or many gradients at once: by operations that have both.
            if ctx.leaf is not None:
                values = _unwritten(ctx.leaf)
            if ctx.needs_input_grad[0]:
                back = gradient @ place(values, places, mask, factor)
            if ctx.needs_input_grad[1]:
                found = pick(rows.t() @ given, places, values.shape)
                made = (
                    (found, None)
                    if factor is None
                    else (found * factor, found * values)
                )
            return back, *made, None, None, summed
        weight = Entries(values, factor, places, mask.shape)
        if ctx.needs_input_grad[0]:
            back = input_gradients(rows, weight).view(inputs.shape)
        if ctx.needs_input_grad[1]:
            made = weight_gradients(rows, given, weight)
        return back, *made, None, None, summed


def _unwritten(leaf: tuple[Tensor, int]) -> Tensor:
    """A parameter, which must not have been written since the forward."""
    values, version = leaf
    if values._version != version:
        raise RuntimeError(
            "a weight was modified in place between a forward and the backward with create_graph=True that needs it; "
            "go backward before the optimizer's step"
        )
    return values
