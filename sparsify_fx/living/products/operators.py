"""The convolution of `sparsify_fx.living.products.function` as operators of torch, for whoever goes by their names.

torch.compile and functional_call find shapes and gradients of them registered here, and autocast what it may cast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify_fx.living.products.function import by_torch, of_bias
from sparsify_fx.living.products.native import TYPES, fills_blocks, layer_of
from sparsify_fx.living.products.shapes import (
    Shape,
    Window,
    lies_side_by_side,
    shape_of,
)

_LIBRARY: Any = torch.library.Library("sparsify_fx", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "sparse_conv(Tensor inputs, Tensor values, Tensor? factor, Tensor? bias, Tensor places, SymInt[] sizes, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, bool beside) -> Tensor"
)
_LIBRARY.define(
    "sparse_conv_backward(Tensor gradient, Tensor inputs, Tensor values, Tensor? factor, Tensor places, "
    "SymInt[] sizes, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
    "bool to_input, bool to_values) -> (Tensor, Tensor, Tensor)"
)

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def cast() -> torch.dtype:
    """What images are cast to, under autocast or not."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    wanted = torch.get_autocast_dtype("cpu")
    return wanted if wanted in TYPES else torch.float32


def _window(given: tuple[Any, ...]) -> Window:
    stride, padding, dilation, groups = given
    return Window(tuple(stride), tuple(padding), tuple(dilation), groups)


@torch.library.impl(_LIBRARY, "sparse_conv", "CPU")
def _forward(
    inputs: Tensor,
    values: Tensor,
    factor: Tensor | None,
    bias: Tensor | None,
    places: Tensor,
    sizes: list[int],
    *rest: Any,
) -> Tensor:
    *window, beside = rest
    shape = shape_of(inputs.shape, tuple(sizes), _window(tuple(window)))
    return layer_of(places, shape).forward(inputs, values, factor, bias, beside)


@torch.library.impl(_LIBRARY, "sparse_conv_backward", "CPU")
def _backward(
    gradient: Tensor,
    inputs: Tensor,
    values: Tensor,
    factor: Tensor | None,
    places: Tensor,
    sizes: list[int],
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *window, to_input, to_values = rest
    shape = shape_of(inputs.shape, tuple(sizes), _window(tuple(window)))
    found = layer_of(places, shape).backward(
        gradient, inputs, values, factor, to_input, to_values
    )
    back, one, other = (values.new_empty(0) if f is None else f for f in found)
    return back, one, other


def _shaped(inputs: Any, values: Any, factor: Any, bias: Any, places: Any, sizes: Any, *rest: Any) -> Any:  # fmt: skip
    *window, beside = rest
    shape = shape_of(inputs.shape, tuple(sizes), _window(tuple(window)))
    images, *others = shape.output
    # How images lie goes by their number, so that compilers take it as fixed.
    if beside and fills_blocks(Shape(*map(int, shape))):
        return inputs.new_empty(*others, images).permute(3, 0, 1, 2)
    return inputs.new_empty(shape.output)


def _shaped_backward(gradient: Any, inputs: Any, values: Any, factor: Any, *rest: Any) -> Any:  # fmt: skip
    _, sizes, *window, to_input, to_values = rest
    shape = shape_of(inputs.shape, tuple(sizes), _window(tuple(window)))
    none = values.new_empty(0)
    back = none
    # As `SparseLayer` gives it: rows of a matrix may lie so and fill no blocks.
    beside = lies_side_by_side(inputs) and fills_blocks(Shape(*map(int, shape)))
    if to_input and beside:
        images, *others = inputs.shape
        back = inputs.new_empty(*others, images).permute(3, 0, 1, 2)
    elif to_input:
        back = inputs.new_empty(inputs.shape)
    one = torch.empty_like(values) if to_values else none
    other = torch.empty_like(factor) if to_values and factor is not None else none
    return back, one, other


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    given, values, factor, _, places, sizes, *window, _ = inputs
    ctx.save_for_backward(given, values, factor, places)
    ctx.sizes, ctx.window = sizes, window


def _traced() -> bool:
    """Whether a compiler traces; other modes that watch operators do no more than that."""
    modes = torch._C._TorchDispatchModeKey
    return torch.compiler.is_compiling() or any(
        torch._C._get_dispatch_mode(key) is not None
        for key in (modes.FAKE, modes.PROXY, modes.FUNCTIONAL)
    )


def _derived(ctx: Any, gradient: Tensor) -> Any:
    inputs, values, factor, places = ctx.saved_tensors
    needs = ctx.needs_input_grad
    summed = of_bias(gradient) if needs[3] else None
    # Of operators that compilers trace, the backward is traced under grad mode too, but nobody derives it again.
    if torch.is_grad_enabled() and not _traced():
        window = _window(tuple(ctx.window))
        weight = (values, factor, places)
        found = by_torch(gradient, inputs, weight, tuple(ctx.sizes), window)
        return *found, summed, *[None] * 7
    wanted = needs[1] or needs[2]
    back, one, other = torch.ops.sparsify_fx.sparse_conv_backward(
        gradient, inputs, values, factor, places, ctx.sizes, *ctx.window, needs[0], wanted
    )  # fmt: skip
    return (
        back if needs[0] else None,
        one if needs[1] else None,
        other if factor is not None and needs[2] else None,
        summed,
        *[None] * 7,
    )


torch.library.register_fake("sparsify_fx::sparse_conv", _shaped)
torch.library.register_fake("sparsify_fx::sparse_conv_backward", _shaped_backward)
torch.library.register_autograd(
    "sparsify_fx::sparse_conv", _derived, setup_context=_save
)


@torch.library.impl(_LIBRARY, "sparse_conv", "AutocastCPU")
def _autocast(inputs: Tensor, *rest: Any) -> Tensor:
    """Images in bfloat16, where that is what autocast is for; the weight stays in float32."""
    # Before its key is excluded, after which torch says that there is no autocast.
    inputs = inputs.to(cast())
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
        found: Tensor = torch.ops.sparsify_fx.sparse_conv(inputs, *rest)
    return found
