"""Inputs and parameters at which a wrong cut shows: what is multiplied by zero would hide it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_DROPOUTS: frozenset[Callable[..., Any]] = frozenset(
    [
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
        *(F.alpha_dropout, F.feature_alpha_dropout),
        *(torch.dropout, torch.dropout_, torch.feature_dropout, torch.alpha_dropout),
    ]
)


def lively_inputs(example_inputs: Any, numbers: bool = True) -> Any:
    """The inputs with random numbers in tensors that are the same everywhere, such as zeros.

    Floats get what lies in [0, 1) added. Whole numbers, such as tokens, become their own value or the one below it, and
    zeros 0 or 1; without `numbers` they stay.
    """
    generator = torch.Generator().manual_seed(0)

    def varied(value: Tensor) -> Tensor:
        whole = not value.is_floating_point()
        if value.is_complex() or value.dtype == torch.bool or (whole and not numbers):
            return value
        if value.numel() < 2 or not _constant(value):
            return value
        if not whole:
            return value + torch.rand(value.shape, generator=generator).to(value)
        steps = torch.randint(0, 2, value.shape, generator=generator).to(value)
        return torch.where(value == 0, steps, value - steps)

    return pytree.tree_map_only(Tensor, varied, example_inputs)


def _constant(value: Tensor) -> bool:
    return bool((value == value.flatten()[0]).all())


_FAINT = 0.01
"""Scales that start smaller hide what they scale: 1e-4 to 1e-6 is usual for branches of a residual net."""


def faint_tensors(model: nn.Module, but: Collection[str]) -> frozenset[str]:
    """The names of what is faint and the same everywhere, or a faint vector: biases of zero, gates and scales at first.

    Args:
        but: weights that are none of them, since their zeros say what is read.
    """
    return frozenset(
        name
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name not in but and _faint(tensor.detach())
    )


def _faint(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return False
    same = _constant(value) or _vector(value)
    return same and float(value.abs().max()) < _FAINT


@torch.no_grad()
def enliven(model: nn.Module, names: Collection[str]) -> None:
    """Give these tensors numbers in [0.1, 0.6), in place."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in names:
            noise = torch.rand(tensor.shape, generator=generator) / 2 + 0.1
            tensor.copy_(noise.to(tensor))


def _vector(value: Tensor) -> bool:
    """Whether it has one number for each channel, whatever its other axes of size 1."""
    return value.numel() == max(value.shape, default=1)


class WithoutDropout(TorchFunctionMode):
    """Dropout passes its input on meanwhile: what it draws depends on how many channels there are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else given["input"]
        if func is F.scaled_dot_product_attention:
            given = {**given, "dropout_p": 0.0} if len(args) < 5 else given
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
        return func(*args, **given)
