"""The forward of convolutions and linear layers that compute with the living entries of their weight alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsify_fx.living.deferring import deferred
from sparsify_fx.living.place import place
from sparsify_fx.living.products import operators
from sparsify_fx.living.products.choice import Choice
from sparsify_fx.living.products.function import convolution
from sparsify_fx.living.products.native import TYPES
from sparsify_fx.living.products.shapes import (
    Window,
    fits,
    lies_side_by_side,
    shape_of,
    sizes_of,
)
from sparsify_fx.living.stored import Stored

# The attribute of a layer that `accelerate` has chosen; in its __dict__, so that a copy of the layer has it.
CHOICE = "_sparse_products"
_Weight = tuple[Tensor, Tensor, Tensor, Tensor | None]


def has_products(layer: nn.Module) -> bool:
    """Whether a layer is one that sparse kernels could compute: its forward is torch's own.

    >>> has_products(nn.Conv2d(1, 1, 1)), has_products(nn.ConvTranspose2d(1, 1, 1))
    (True, False)
    """
    base = getattr(type(layer), "_sparsify_fx_base", type(layer))
    if base.forward is nn.Linear.forward:
        return True
    own = (base.forward, getattr(base, "_conv_forward", None))
    if own not in [
        (kind.forward, kind._conv_forward) for kind in (nn.Conv1d, nn.Conv2d)
    ]:
        return False
    return layer.padding_mode == "zeros" and window_of(layer) is not None


def window_of(layer: nn.Module) -> Window | None:
    """How a convolution goes over images, in two dimensions; None where sides are padded unequally."""
    if isinstance(layer, nn.Linear):
        return Window()
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    padding: Any = layer.padding
    if padding == "valid":
        padding = (0,) * len(layer.stride)
    elif padding == "same":
        total = [
            d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        if any(each % 2 for each in total):
            return None
        padding = tuple(each // 2 for each in total)
    flat = isinstance(layer, nn.Conv1d)
    stride, dilation = layer.stride, layer.dilation
    return Window(
        (1, *stride) if flat else stride,  # type: ignore[arg-type]
        (0, *padding) if flat else padding,
        (1, *dilation) if flat else dilation,  # type: ignore[arg-type]
        layer.groups,
    )


def product(layer: nn.Module, inputs: Tensor) -> Tensor | None:
    """The layer's result by sparse kernels; None where it must, or had better, compute with its whole weight."""
    choice: Choice | None = layer.__dict__.get(CHOICE)
    if choice is None or not _reads(inputs) or not _adds(layer.bias):
        return None
    program = layer._modules.get("weight_program")
    if (
        not isinstance(program, Stored)
        or program.places() is None
        or layer._parameters.get("weight") is not None
    ):
        return None
    inputs = inputs.to(operators.cast())
    weight, window = _weight(program, choice), window_of(layer)
    if weight is None or window is None:
        return None
    images = _as_images(layer, inputs, weight[2])
    if images is None:
        return None
    if min(window.stride) < 1:
        return None  # torch says what is wrong
    shape = shape_of(images.shape, sizes_of(weight[2]), window)
    right = layer.bias is None or layer.bias.shape == (shape.rows,)
    if not right or min(shape) < 0 or min(shape.output) < 1:
        return None
    if not fits(shape):
        return None
    if not choice.takes(shape, images, weight, window):
        return None
    # A matrix of rows goes on as rows where it came so, with more axes: norms and attention read it.
    beside = (
        inputs.dim() == 2
        or not isinstance(layer, nn.Linear)
        or (lies_side_by_side(images) and not inputs.is_contiguous())
    )
    made = convolution(images, weight, layer.bias, window, beside)  # type: ignore[arg-type]
    return _as_given(layer, made, inputs)


def _reads(inputs: Tensor) -> bool:
    """Whether the kernels take what is given, on a CPU: float32, or under autocast bfloat16."""
    return (
        isinstance(inputs, Tensor)
        and _has_type(inputs.dtype)
        and inputs.device.type == "cpu"
        and inputs.layout == torch.strided
        and inputs.numel() > 0
        and not torch.compiler.is_exporting()
        # Compilers cannot follow the questions behind, and are none of these.
        and (torch.compiler.is_compiling() or not _watched())
    )


def _has_type(given: torch.dtype) -> bool:
    """Whether images of this dtype are, or are cast to, one of the kernels' own."""
    # Without autocast images in another precision than the weight are an error of torch's.
    if not torch.is_autocast_enabled("cpu"):
        return given == torch.float32
    return given in TYPES and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _adds(bias: Any) -> bool:
    """Whether the kernels take a bias; of another one torch says what is wrong, if anything is."""
    return bias is None or (bias.dtype == torch.float32 and bias.device.type == "cpu")


def _watched() -> bool:
    """Whether a transform of `torch.func`, forward derivatives or a tracer want torch's own operators."""
    return bool(
        torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _weight(program: Stored, choice: Choice) -> _Weight | None:
    """What the program would place: values, places, mask, factor. None where it does something else at its end."""
    if torch.compiler.is_compiling():
        # By name, since a compiler cannot follow what a program is asked below.
        if not choice.tensors:
            return None
        values, places, mask, *factor = (getattr(program, n) for n in choice.tensors)
        weight: _Weight = (values, places, mask, factor[0] if factor else None)
    else:
        with deferred() as asked:
            values = program()
        # A pass may have let the program go on after the placing, with what only it knows.
        if len(asked) != 1 or asked[0][0] is not values:
            return None
        weight = asked[0]
    taken = weight[0].dtype == torch.float32 and weight[1].dtype == torch.int32
    return weight if taken else None


def placed_tensors(program: Any) -> tuple[str, ...]:
    """The names of the program's tensors that it places, in the order of `place`; () where it computes first."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node) or last.target is not place:
        return ()
    given = [each for each in last.args if isinstance(each, fx.Node)]
    if any(each.op != "get_attr" for each in given):
        return ()
    return tuple(str(each.target) for each in given)


def _as_images(layer: nn.Module, inputs: Tensor, mask: Tensor) -> Tensor | None:
    """Inputs of any of these layers as images [n, c, h, w]; None where torch shall say what is wrong."""
    if isinstance(layer, nn.Linear):
        if inputs.dim() < 2 or inputs.shape[-1] != mask.shape[1]:
            return None
        return inputs.reshape(-1, inputs.shape[-1])[:, :, None, None]
    axes = mask.dim()
    if inputs.dim() != axes or inputs.shape[1] != mask.shape[1] * layer.groups:  # type: ignore[operator]
        return None
    return inputs if axes == 4 else inputs[:, :, None]


def _as_given(layer: nn.Module, made: Tensor, inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return made.view(*inputs.shape[:-1], made.shape[1])
    return made if inputs.dim() == 4 else made[:, :, 0]
