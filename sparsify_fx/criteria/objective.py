"""The loss as a function of the prunable weights, for torch.func."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsify_fx.criteria.base import PruningContext
from sparsify_fx.errors import RecipeError

Weights = dict[str, Tensor]


def objective(
    context: PruningContext, inputs: Tensor, targets: Any, temperature: float = 1.0
) -> Callable[[Weights], Tensor]:
    """θ -> loss_fn(model_θ(inputs) / temperature, targets); the model and its buffers stay as they are."""
    model, loss_fn = context.model, context.loss_fn
    assert model is not None
    assert loss_fn is not None
    others = {name: p.detach() for name, p in model.named_parameters() if name not in context.weights}

    def loss(weights: Weights) -> Tensor:
        # Cloned in here: torch.func refuses the in-place updates of running statistics on captured tensors.
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        with plain_kernels(model):
            outputs = functional_call(model, {**others, **buffers, **weights}, (inputs,))
        return loss_fn(outputs / temperature if temperature != 1.0 else outputs, targets)

    return loss


@contextlib.contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers by kernels that have second derivatives (and a vmap); the fused ones have none."""
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn) if is_recurrent(model) else ()
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
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

    Raises RecipeError when there is none (a generator that was read before, for instance), and for anything but pairs
    whose inputs are one tensor.
    """
    assert context.batches is not None
    device = next(iter(context.weights.values())).device
    empty = True
    for pair in context.batches:
        empty = False
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], Tensor)):
            raise RecipeError(
                f"batches= must give (inputs, targets) pairs whose inputs are one tensor, got {_kind(pair)}; "
                "wrap a model of several inputs in a module that takes one"
            )
        inputs, targets = pair
        yield inputs.to(device), targets.to(device) if isinstance(targets, Tensor) else targets
    if empty:
        raise RecipeError("batches= is empty; give a list or a loader that can be read again, not a spent iterator")


def mean_gradient(context: PruningContext, temperature: float = 1.0) -> Weights:
    """∇L(θ), the mean over the batches, with the shapes of the weights."""
    weights = dict(context.weights)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for inputs, targets in scoring_batches(context):
        gradient = grad(objective(context, inputs, targets, temperature))(weights)
        total = {name: total[name] + gradient[name] for name in total}
        count += 1
    return {name: value / count for name, value in total.items()}


def _kind(value: object) -> str:
    """`(list, Tensor)` for a pair of those, else the name of the type."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return type(value).__name__
