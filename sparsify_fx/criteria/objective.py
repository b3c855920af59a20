"""The loss as a function of the prunable weights, and its mean gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsify_fx.criteria.base import PruningContext
from sparsify_fx.criteria.scoring_mode import in_mode, local_statistics, unit_scales
from sparsify_fx.distributed.ranks import sum_over_ranks
from sparsify_fx.errors import MethodError

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]


def objective(
    context: PruningContext,
    inputs: Tensor,
    targets: Any,
    temperature: float = 1.0,
    replaced: Weights | None = None,
) -> Loss:
    """θ -> loss_fn(model_θ(inputs) / temperature, targets); the model and its buffers stay as they are.

    Args:
        replaced: values of other parameters by name, in place of the model's own.
    """
    model, loss_fn = context.model, context.loss_fn
    assert model is not None
    assert loss_fn is not None
    others = {
        name: p.detach()
        for name, p in model.named_parameters()
        if name not in context.weights
    }

    def loss(weights: Weights) -> Tensor:
        # Cloned in here: the in-place updates of running statistics must not reach the model.
        buffers = {
            name: buffer.detach().clone() for name, buffer in model.named_buffers()
        }
        given = {**others, **(replaced or {}), **buffers, **weights}
        with plain_kernels(model), local_statistics(model):
            # The model itself is never written: it may be in training.
            outputs = functional_call(model, given, (inputs,))
        return loss_fn(
            outputs / temperature if temperature != 1.0 else outputs, targets
        )

    return loss


def gradient_of(loss: Loss, weights: Weights) -> Weights:
    """∇L at `weights`; zero where the loss does not depend on one.

    By ordinary autograd: custom functions and activation checkpointing, which torch.func refuses, work as well.
    """
    with torch.enable_grad():
        leaves = leaves_of(weights)
        tensors = list(leaves.values())
        # A weight that the loss does not reach (an unused head) gets zeros, and so scores lowest, instead of an error.
        found = torch.autograd.grad(
            loss(leaves), tensors, allow_unused=True, materialize_grads=True
        )
    return dict(zip(leaves, found, strict=True))


def leaves_of(weights: Weights) -> Weights:
    """The same values as leaves of a new graph."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


@contextlib.contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers by kernels that have second derivatives (and a vmap); the fused ones have none."""
    # cuDNN and MKL-DNN run a recurrent layer in one fused kernel whose backward has no derivative; without them torch
    # composes it of operations that have one.
    backends: tuple[Any, ...] = (
        (torch.backends.mkldnn, torch.backends.cudnn) if is_recurrent(model) else ()
    )
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        # The same of attention: flash and memory-efficient kernels can be differentiated only once.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, enabled in zip(backends, before, strict=True):
            backend.enabled = enabled


def is_recurrent(model: nn.Module) -> bool:
    """Whether the model holds one of torch's recurrent layers."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def scoring_batches(context: PruningContext) -> Iterator[tuple[Tensor, Any]]:
    """The (inputs, targets) pairs, on the device of the weights.

    Raises MethodError when there is none (a generator that was read before, for instance), and for anything but pairs
    whose inputs are one tensor.
    """
    assert context.batches is not None
    device = next(iter(context.weights.values())).device
    # A flag and not `len`: loaders and generators need not have a length.
    empty = True
    for pair in context.batches:
        empty = False
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and isinstance(pair[0], Tensor)
        ):
            raise MethodError(
                f"batches= must give (inputs, targets) pairs whose inputs are one tensor, got {_kind(pair)}; "
                "wrap a model of several inputs in a module that takes one"
            )
        inputs, targets = pair
        yield (
            inputs.to(device),
            targets.to(device) if isinstance(targets, Tensor) else targets,
        )
    if empty:
        raise MethodError(
            "batches= is empty; give a list or a loader that can be read again, not a spent iterator"
        )


def mean_gradient(
    context: PruningContext,
    moment: str,
    *,
    temperature: float = 1.0,
    mode: str = "train",
    unit: bool = False,
) -> Weights:
    """∇L(θ), the mean over the batches of all ranks, with the shapes of the weights.

    Args:
        moment: what it is for, as other ranks are told.
        mode: "train" or "eval", the mode of the model meanwhile.
        unit: whether scales that are zero count as one.
    """
    assert context.model is not None
    model, weights = context.model, dict(context.weights)
    replaced = unit_scales(model, weights) if unit else {}

    def summed() -> tuple[Weights, int]:
        # Zeros first: every rank sends tensors of these shapes, however many batches it has.
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        count = 0
        with in_mode(model, mode):
            for inputs, targets in scoring_batches(context):
                gradient = gradient_of(
                    objective(context, inputs, targets, temperature, replaced), weights
                )
                total = {name: total[name] + gradient[name] for name in total}
                count += 1
        return total, count

    total, count = sum_over_ranks(f"the gradients of {moment}", summed)
    return {name: value / count for name, value in total.items()}


def _kind(value: object) -> str:
    """`(list, Tensor)` for a pair of those, else the name of the type."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__
