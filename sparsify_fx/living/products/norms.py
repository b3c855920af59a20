"""Batch norm of images side by side, by kernels of the C++ library.

    y = (x − μ) σ w + b    μ, σ = mean and 1/√(variance + ε) of a channel

torch's own kernels add the values of a channel one by one, which takes longer than a sparse convolution before it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.living.products.native import TYPES, address, call


def normed(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    by_batch: bool,
    share: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of inputs [channels, values], in their dtype, with the means and deviations σ that it took.

    Args:
        running: mean and variance of a channel, which follow those of the batch by a `share`, or take their place
            where not `by_batch`.

    >>> made, mean, _ = normed(torch.tensor([[1.0, 3.0]]), None, None, (None, None), True, 0.1, 0.0)
    >>> made.tolist(), mean.tolist()
    ([[-1.0, 1.0]], [2.0])
    """
    channels, count = inputs.shape
    inputs, weight, bias = map(_dense, (inputs, weight, bias))  # type: ignore[assignment]
    # What the kernels write, whatever the default dtype and device of torch are.
    mean, deviation = (
        torch.empty(channels, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    if by_batch:
        _moments(inputs, epsilon, mean, deviation, running, share)
    else:
        known, variance = running
        assert known is not None
        assert variance is not None
        mean.copy_(known)
        torch.rsqrt(variance + epsilon, out=deviation)
    made = torch.empty_like(inputs)
    call(
        "sparsify_fx_norm_forward", TYPES[inputs.dtype],
        inputs.data_ptr(), channels, count, mean.data_ptr(), deviation.data_ptr(), address(weight), address(bias),
        made.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return made, mean, deviation


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _moments(
    inputs: Tensor,
    epsilon: float,
    mean: Tensor,
    deviation: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    share: float,
) -> None:
    channels, count = inputs.shape
    variance, small = torch.empty_like(mean), ctypes.c_double(epsilon)
    call(
        "sparsify_fx_norm_moments", TYPES[inputs.dtype],
        inputs.data_ptr(), channels, count, ctypes.addressof(small), mean.data_ptr(), deviation.data_ptr(),
        variance.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    for kept, found in zip(
        running, (mean, variance * (count / max(1, count - 1))), strict=True
    ):
        if kept is not None:
            # By its data, as torch's own batch norm does: one whose backward is still to come may have saved it.
            kept.data.lerp_(found, share)


def normed_backward(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor | None,
    moments: tuple[Tensor, Tensor],
    by_batch: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of inputs, weight and bias that are `wanted`.

    Args:
        moments: means and deviations, as `normed` gave them.
        by_batch: whether they are those of the inputs, and change with them.

    >>> one = torch.ones(1, 2)
    >>> normed_backward(one, one, None, (one[0, :1], one[0, :1]), True, (True, False, True))
    (tensor([[0., 0.]]), None, tensor([2.]))
    """
    (channels, count), (mean, deviation) = inputs.shape, moments
    gradient = gradient.to(inputs.dtype)
    gradient, inputs, weight = map(_dense, (gradient, inputs, weight))  # type: ignore[assignment]
    shapes = inputs, mean, mean
    found: tuple[Any, ...] = tuple(
        torch.empty_like(like) if each else None
        for each, like in zip(wanted, shapes, strict=True)
    )
    call(
        "sparsify_fx_norm_backward", TYPES[inputs.dtype],
        gradient.data_ptr(), inputs.data_ptr(), channels, count, mean.data_ptr(), deviation.data_ptr(),
        address(weight), int(by_batch), *map(address, found), torch.get_num_threads(),
    )  # fmt: skip
    return found


def by_torch(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor | None,
    moments: tuple[Tensor, Tensor] | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by operations that have gradients themselves; without `moments` those of the inputs are taken."""
    kind = inputs.dtype
    gradient, inputs = gradient.float(), inputs.float()
    if moments is None:
        variance, mean = torch.var_mean(inputs, 1, correction=0, keepdim=True)
        deviation = torch.rsqrt(variance + epsilon)
    else:
        mean, deviation = (each[:, None] for each in moments)
    plain = (inputs - mean) * deviation
    product = gradient * plain
    back = gradient
    if moments is None:
        back = back - gradient.mean(1, True) - plain * product.mean(1, True)
    scale = deviation if weight is None else deviation * weight[:, None]
    return (back * scale).to(kind), product.sum(1), gradient.sum(1)
