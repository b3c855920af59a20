"""The loss as a function of the prunable weights, for torch.func."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad

from sparsify_fx.criteria.base import PruningContext
from sparsify_fx.errors import RecipeError

Weights = dict[str, Tensor]


def objective(
    context: PruningContext, inputs: Any, targets: Any, temperature: float = 1.0
) -> Callable[[Weights], Tensor]:
    """θ -> loss_fn(model_θ(inputs) / temperature, targets); the model and its buffers stay as they are."""
    model, loss_fn = context.model, context.loss_fn
    assert model is not None
    assert loss_fn is not None
    others = {name: p.detach() for name, p in model.named_parameters() if name not in context.weights}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def loss(weights: Weights) -> Tensor:
        outputs = functional_call(model, {**others, **buffers, **weights}, (inputs,))
        return loss_fn(outputs / temperature if temperature != 1.0 else outputs, targets)

    return loss


def scoring_batches(context: PruningContext) -> Iterator[tuple[Any, Any]]:
    """The (inputs, targets) pairs; RecipeError when there is none (a generator that was read before, for instance)."""
    assert context.batches is not None
    count = 0
    for inputs, targets in context.batches:
        count += 1
        yield inputs, targets
    if count == 0:
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
