"""Convolution with the living entries of a weight, as a differentiable operation.

    y = x ⊛ W + b        W[place k] = values[k] factor[k], zero elsewhere

The gradients of values and factor are made for living entries alone; W is not. A gradient of a gradient is made by
torch's own operators, with the weight as a whole.

x, y and their gradients are float32 or bfloat16; W, b and their gradients, and all sums, are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify_fx.living.place import is_plain, pick, place
from sparsify_fx.living.products.native import layer_of
from sparsify_fx.living.products.shapes import Window, shape_of, sizes_of

_Sizes = tuple[int, ...]


def convolution(
    inputs: Tensor,
    weight: tuple[Tensor, Tensor, Tensor, Tensor | None],
    bias: Tensor | None,
    window: Window,
    beside: bool = True,
) -> Tensor:
    """`F.conv2d(inputs, place(*weight), bias, *window)` for inputs [n, c, h, w], by kernels that skip the zeros.

    Args:
        weight: values, places, mask [o, c / groups, ky, kx] and factor, as `place` takes them.
        beside: whether images of the result lie side by side, where their number allows it.

    >>> mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)[:, :, None, None]
    >>> values, places = torch.tensor([2.0, 3.0]), torch.tensor([0, 3], dtype=torch.int32)
    >>> convolution(torch.ones(1, 2, 1, 1), (values, places, mask, None), None, Window()).flatten()
    tensor([2., 3.])
    """
    values, places, mask, factor = weight
    if factor is not None and factor.shape != values.shape:
        values, factor = values * factor, None
    sizes = sizes_of(mask)
    plain = all(is_plain(each) for each in (inputs, values, places))
    if plain:
        made: Tensor = _Convolution.apply(
            inputs, values, factor, bias, places, sizes, window, beside
        )
        return made
    # Compilers, and whatever else watches operators.
    found: Tensor = torch.ops.sparsify_fx.sparse_conv(
        inputs, values, factor, bias, places, sizes, *window, beside
    )
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, values, factor, bias, places, sizes, window, beside = arguments
        shape = shape_of(inputs.shape, sizes, window)
        made = layer_of(places, shape).forward(inputs, values, factor, bias, beside)
        # As in `sparsify_fx.living.linear`: a parameter itself may be written before this goes backward.
        # Tensors of inference mode have no versions, and nothing goes backward from there.
        alone = values.is_leaf and factor is None and not values.is_inference()
        ctx.leaf = (values, values._version) if alone else None
        kept = values.detach().clone() if alone else values
        ctx.save_for_backward(inputs, kept, factor, places)
        ctx.shape, ctx.window = shape, window
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inputs, values, factor, places = ctx.saved_tensors
        needs = ctx.needs_input_grad
        summed = of_bias(gradient) if needs[3] else None
        if torch.is_grad_enabled() or not is_plain(gradient):
            if ctx.leaf is not None:
                values = unwritten(ctx.leaf)
            found = by_torch(
                gradient, inputs, (values, factor, places), ctx.shape.weight, ctx.window
            )
            return *found, summed, None, None, None, None
        layer = layer_of(places, ctx.shape)
        wanted = needs[1] or needs[2]
        back, one, other = layer.backward(
            gradient, inputs, values, factor, needs[0], wanted
        )
        return back, one, other, summed, None, None, None, None


def of_bias(gradient: Tensor) -> Tensor:
    """The gradient of a bias, in float32, from that of the result [n, c, h, w]."""
    return gradient.sum((0, 2, 3), dtype=torch.float32)


def unwritten(leaf: tuple[Tensor, int]) -> Tensor:
    """A parameter, which must not have been written since the forward."""
    values, version = leaf
    if values._version != version:
        raise RuntimeError(
            "a weight was modified in place between a forward and the backward with create_graph=True that needs it; "
            "go backward before the optimizer's step"
        )
    return values


def by_torch(
    gradient: Tensor,
    inputs: Tensor,
    weight: tuple[Tensor, Tensor | None, Tensor],
    sizes: tuple[int, ...],
    window: Window,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of inputs, values and factor by operations that have gradients themselves."""
    values, factor, places = weight
    like = values.new_empty(()).expand(sizes)
    dense = place(values, places, like, factor)
    # In single precision whatever the images are: torch wants all three alike.
    back, found, _ = torch.ops.aten.convolution_backward(
        gradient.float(), inputs.float(), dense, None, window.stride, window.padding, window.dilation, False, (0, 0),
        window.groups, (True, True, False),
    )  # fmt: skip
    back, picked = back.to(inputs.dtype), pick(found, places, values.shape)
    if factor is None:
        return back, picked, None
    return back, picked * factor, picked * values
