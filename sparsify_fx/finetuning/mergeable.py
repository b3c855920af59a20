"""Whether an update that was trained beside a layer can be added to its weight."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsify_fx.errors import MethodError

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NEAR = 1e-4  # of the largest output


def check_mergeable(name: str, layer: Any) -> None:
    """MethodError unless f(x, W + ΔW) = f(x, W) + f(x, ΔW), f without the bias.

    It is not so for convolutions that standardize their weight (timm's StdConv2d and ScaledStdConv2d): peft makes the
    adapters of the same class, and merges another function than the one that was trained.
    """
    # The usual classes are known; those derived from them may pad in their own way, or do anything.
    if type(layer) in _PLAIN or not isinstance(layer, _PLAIN):
        return
    if not _linear_in_weight(layer):
        raise MethodError(
            f"{name} is a {type(layer).__name__}, whose outputs are not linear in its weight (it standardizes the "
            "weight, for instance), so an update beside it cannot be merged into it; leave it out of target_modules"
        )


def _linear_in_weight(layer: nn.Linear | _ConvNd) -> bool:
    """Tried out on a copy: twice the weight gives twice the outputs."""
    try:
        copied = copy.deepcopy(layer).eval().cpu().double().requires_grad_(False)
        copied.bias = None
        inputs = _inputs(copied)
        once = copied(inputs)
        copied.weight.mul_(2)
        twice = copied(inputs)
    except Exception:  # A forward of any kind: what cannot be tried out so (quantized weights) is peft's to judge.
        return True
    return bool((twice - 2 * once).abs().max() <= _NEAR * twice.abs().max())


def _inputs(layer: nn.Linear | _ConvNd) -> Tensor:
    """Random inputs that are large enough for one output at least."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, _ConvNd):
        sides = [d * (k - 1) + 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]  # fmt: skip
        shape = (1, layer.in_channels, *sides)
    else:
        shape = (1, layer.in_features)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
