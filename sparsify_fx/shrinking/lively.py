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


def lively_inputs(example_inputs: Any) -> Any:
    """The inputs with random numbers in [0, 1) added to tensors of floats that are all the same, such as zeros."""
    generator = torch.Generator().manual_seed(0)

    def varied(value: Tensor) -> Tensor:
        constant = (
            value.is_floating_point()
            and value.numel() > 1
            and bool((value == value.flatten()[0]).all())
        )
        if not constant:
            return value
        return value + torch.rand(value.shape, generator=generator).to(value)

    return pytree.tree_map_only(Tensor, varied, example_inputs)


@torch.no_grad()
def enliven(model: nn.Module, mixing: Collection[str]) -> None:
    """Give parameters that are zero everywhere numbers in [0.1, 0.6), in place: biases, gates and scales that start so.

    Args:
        mixing: weights that are left alone, since their zeros say what is read.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        lies_still = parameter.is_floating_point() and not parameter.any()
        if lies_still and name not in mixing:
            noise = torch.rand(parameter.shape, generator=generator) / 2 + 0.1
            parameter.copy_(noise.to(parameter))


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
