"""A copy of a model in which every weight that a mask keeps is a positive random number; for `flow`."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsify_fx.programs.owners import owners, program_of, programs, uninstall
from sparsify_fx.sharding import copy_in_full


def positive(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in (0.5, 1.5), drawn on the CPU, in a precision of 32 bits at least."""
    # Half precision has too short a range for sums over many inputs.
    dtype = like.dtype if like.dtype.itemsize >= 4 else torch.float32
    return (torch.rand(like.shape, generator=generator, device="cpu") + 0.5).to(
        like.device, dtype
    )


def positive_copy(
    model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
) -> nn.Module:
    """The model in evaluation mode, plain, with positive random weights where the masks keep them."""

    def fresh(name: str, like: Tensor) -> nn.Parameter:
        value = positive(like, generator)
        return nn.Parameter(
            value * masks[name].to(value.device) if name in masks else value
        )

    # What deepcopy takes in place of a copy: random weights, so that the trained ones are not copied first.
    memo: dict[int, Any] = {}
    for name, program in programs(model).items():
        # Its size alone counts.
        memo[id(program)] = _Weight(fresh(name, program.like()))
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = (
            fresh(name, parameter) if parameter.is_floating_point() else parameter
        )
    for buffer in model.buffers():
        # Buffers keep their values, as wide as the weights that they meet.
        wide = buffer.is_floating_point() and buffer.dtype.itemsize < 4
        memo[id(buffer)] = buffer.detach().float() if wide else buffer.detach().clone()
    for module in model.modules():
        # Trainers and loggers that a module refers to are not copied with it, and its hooks do not run.
        memo |= _shared(module)
    net = copy_in_full(_unwrapped(model), memo).eval()
    # Plain parameters, so that forwards that look at `_parameters` find what they expect; a list, since `uninstall`
    # changes what `owners` walks.
    for _, owner, tensor in list(owners(net)):
        uninstall(owner, tensor, cast(_Weight, program_of(owner, tensor)).weight)
    return net


class _Weight(nn.Module):
    """Stands in for a weight program while the model is copied: owners look for a module that gives a weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight


def _shared(module: nn.Module) -> dict[int, Any]:
    """What is not copied with a module: hooks, which are left out, and other people's objects, such as a trainer.

    Hooks of torch itself compute weights (spectral_norm) and stay.
    """
    memo: dict[int, Any] = {}
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            memo[id(value)] = type(value)(
                (k, f) for k, f in value.items() if _of_torch(f)
            )
        # Containers are looked into, since they may hold modules or tensors; other objects are passed on as they are.
        elif not isinstance(value, _COPIED):
            memo[id(value)] = value
    return memo


_COPIED = (
    dict,
    list,
    tuple,
    set,
    nn.Module,
    Tensor,
    types.MethodType,
    functools.partial,
)


def _of_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's wrapper, and those of data parallelism."""
    # Wrappers may be nested, in either order.
    while hasattr(model, "_orig_mod") or isinstance(
        model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
    ):
        model = cast(
            nn.Module, model._orig_mod if hasattr(model, "_orig_mod") else model.module
        )
    return model
