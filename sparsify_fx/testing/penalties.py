"""The laws of a penalty: a finite scalar whose gradient never reaches a pruned weight."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.api import apply
from sparsify_fx.penalties import AdaptivePenalty, Observation, Penalty
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import axis_value
from sparsify_fx.testing.small import alike, effective, ensure, small_net


def check_penalty(penalty: str | Penalty, parameterization: Any = "dense") -> None:
    """A finite scalar whose gradient is finite and never reaches a pruned weight; an adaptive one gives two numbers.

    Args:
        parameterization: one that it fits, such as "sigmoid-gate" for a penalty on gates.

    >>> check_penalty("l1")
    >>> check_penalty("gates", "sigmoid-gate")
    """
    found: Penalty = axis_value("penalty", penalty)
    # Half of the weights are pruned, so that there are some that the gradient must not reach; and they are stored, or
    # there would be none to look at.
    model = apply(
        small_net(),
        "random",
        parameterization=parameterization,
        penalty=found,
        sparsity=0.5,
        storage="full",
    )
    before = copy.deepcopy(effective(model.eval()))
    term = found(programs(model).values())
    ensure(
        term.dim() == 0,
        f"{found}: the term has the shape {tuple(term.shape)}, not that of a scalar",
    )
    ensure(torch.isfinite(term), f"{found}: the term is {term.item()}")
    # One that is constant for this model has no gradient to look at.
    if term.requires_grad:
        term.backward()  # type: ignore[no-untyped-call]
    for name, program in programs(model).items():
        for factor, tensor in program.factor_tensors().items():
            _no_pull(
                f"{found}: the gradient of {factor} of {name}",
                tensor.grad,
                program.current_mask(),
            )
    ensure(alike(before, effective(model)), f"{found}: calling it changes the weights")
    _same_when_living(found, parameterization, model, term)
    if isinstance(found, AdaptivePenalty):
        _adapts(found, model)


def _same_when_living(
    penalty: Penalty, parameterization: Any, full: nn.Module, term: Tensor
) -> None:
    """The same term, and the same gradients of living entries, where those alone are stored."""
    model = apply(
        small_net(),
        "random",
        parameterization=parameterization,
        penalty=penalty,
        sparsity=0.5,
    ).eval()
    again = penalty(programs(model).values())
    ensure(
        torch.allclose(again, term.detach(), rtol=1e-5, atol=1e-7),
        f"{penalty}: the term is {again.item()} in living storage and {term.item()} in full",
    )
    if again.requires_grad:
        again.backward()  # type: ignore[no-untyped-call]
    for name, program in programs(model).items():
        for factor, tensor in program.factor_tensors().items():
            other = programs(full)[name].get_parameter(factor).grad
            if other is None or tensor.grad is None:
                continue
            ensure(
                torch.allclose(program.restored(tensor.grad), other, rtol=1e-5),
                f"{penalty}: the gradient of {factor} of {name} is another in living storage",
            )


def _no_pull(told: str, gradient: Tensor | None, mask: Tensor | None) -> None:
    """A penalty that pulls at a pruned weight would move its factors, though the mask hides it for now."""
    if gradient is not None and mask is not None:
        ensure(torch.isfinite(gradient).all(), f"{told} is not finite")
        ensure((gradient[mask == 0] == 0).all(), f"{told} reaches pruned entries")


def _adapts(penalty: AdaptivePenalty, model: nn.Module) -> None:
    """Strength 0 switches the term off, and four epochs of observations give finite strengths."""
    strengths = torch.zeros(())
    ensure(
        penalty(programs(model).values(), strengths).item() == 0,
        f"{penalty}: with strength 0 the term is not 0",
    )
    level = penalty.strength
    # The first epoch has nothing before it.
    before: Observation | None = None
    for epoch in range(1, 5):
        now = Observation(epoch, 4, epoch / 4, 0.5, 0.1, 1.0, 10.0, 5.0, epoch / 5)
        level, applied = penalty.adapt(level, before, now)
        before = now
        ensure(
            math.isfinite(level) and math.isfinite(applied),
            f"{penalty}: adapt gives {level} and {applied}",
        )
