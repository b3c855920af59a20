"""The gradient of a method's penalty, added to the others where a trainer computes the loss itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsify_fx.scheduler.scheduler import Scheduler


def add_gradient(
    scheduler: Scheduler, optimizer: Optimizer, scale: float | Tensor = 1.0
) -> None:
    """Add scale · ∂penalty/∂w to the gradient of every parameter w of `optimizer`.

    Once for each optimizer step, whatever was accumulated: the penalty depends on the weights alone, so that each of
    several batches would give the same.

    Args:
        scale: what the other gradients are multiplied with at this time, by a gradient scaler.
    """
    with torch.enable_grad():
        term = scheduler.penalty()
    if term.grad_fn is None:
        return  # the method has no penalty, or none at this time
    trained = [p for p in held_by(optimizer) if p.requires_grad]
    # Not backward(): hooks on gradients, DistributedDataParallel's too, would take it for one more pass of the model.
    gradients = torch.autograd.grad(term, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None and parameter.grad is not None:
            parameter.grad.add_(gradient * scale)
        elif gradient is not None:
            parameter.grad = gradient * scale


def held_by(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer, in the order of its groups."""
    held: list[Tensor] = []
    for group in optimizer.param_groups:
        held += group["params"]
    return held


def add_at_steps(scheduler: Scheduler) -> list[RemovableHandle]:
    """Add the gradient of the penalty right before every step of the optimizers; remove the handles to end it."""

    def before(optimizer: Optimizer, *_: Any) -> None:
        # A gradient scaler has unscaled the others by then, or hands its scale to a fused optimizer to divide by.
        scale = getattr(optimizer, "grad_scale", None)
        add_gradient(scheduler, optimizer, 1.0 if scale is None else scale)

    hook = torch.compiler.disable(before)  # type: ignore[no-untyped-call]
    return [o.register_step_pre_hook(hook) for o in scheduler.optimizers]
