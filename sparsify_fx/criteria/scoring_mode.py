"""How a model is evaluated for scores: its mode, its normalizations and the scales that start at zero."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from sparsify_fx.distributed.batch_norm import SynchronizedNorm
from sparsify_fx.errors import MethodError

MODES = ("train", "eval")
_SCALE_NAMES = (
    "weight",
    "gamma",
    "scale",
    "gain",
    "alpha",
    "resweight",
    "skipinit_gain",
)


def check_mode(criterion: str, mode: object) -> None:
    """Raise MethodError unless it is "train" or "eval"."""
    if mode not in MODES:
        raise MethodError(
            f"{criterion}: mode={mode!r} must be 'train' (as published) or 'eval'"
        )


@contextlib.contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The model in training or in evaluation mode, every module's own flag given back.

    A model that is in training already stays as it is, with the parts that were put into evaluation one by one, such as
    a frozen batch norm.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        # `train()` on a model in training would also wake the parts that the user froze on purpose.
        if mode == "eval" or not model.training:
            model.train(mode == "train")
        yield
    finally:
        # Flag by flag and not by `train()`: parts may have had modes of their own.
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def local_statistics(model: nn.Module) -> Iterator[None]:
    """SyncBatchNorm as batch norm: scoring must not wait for ranks that read fewer batches."""
    synchronized = [
        module
        for module in model.modules()
        if isinstance(module, (nn.SyncBatchNorm, SynchronizedNorm))
    ]
    for module in synchronized:
        # On the object and not on its class: other models of this process go on synchronizing. The forward of
        # BatchNorm1d serves all dimensions: it is that of their common base class.
        module.__dict__["forward"] = types.MethodType(nn.BatchNorm1d.forward, module)
    try:
        yield
    finally:
        for module in synchronized:
            del module.__dict__["forward"]


def unit_scales(model: nn.Module, prunable: Collection[str]) -> dict[str, Tensor]:
    """Ones by name for every scale that is zero throughout, which would hide a whole branch from the loss.

    A scale is a parameter with at most one dimension longer than 1 of a normalization (`weight`), a layer scale
    (`gamma`) or a gain (`alpha`, `skipinit_gain`), not a bias and not itself prunable.
    """
    found = {}
    for prefix, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{key}" if prefix else key
            if (
                name not in prunable
                and _is_scale(module, key, parameter)
                and not parameter.detach().any()
            ):
                found[name] = torch.ones_like(parameter.detach())
    return found


def _is_scale(module: nn.Module, key: str, parameter: Tensor) -> bool:
    # The slope of a PReLU is called `weight` too, and with a slope of one it would be the identity.
    if isinstance(module, nn.PReLU) or not parameter.is_floating_point():
        return False
    return key in _SCALE_NAMES and sum(size > 1 for size in parameter.shape) <= 1
