"""Gradient descent and gradient flows of the single neuron, on weights and on Sign-In's factors."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sparsify_fx.lab.common.flow import Field
from sparsify_fx.parameterizations.product import Product


class Risk(Protocol):
    """A loss of many runs, each with its own row of parameters."""

    def gradient(self, parameters: Tensor) -> Tensor:
        """The gradient by every run's parameters, [runs, k]."""


def descend(problem: Risk, start: Tensor, *, rate: float, steps: int) -> Tensor:
    """Gradient descent on [a, w] for all runs at once: θ ← θ − rate·∇L(θ)."""
    parameters = start.clone()
    for _ in range(steps):
        parameters = parameters - rate * problem.gradient(parameters)
    return parameters


def descend_factors(
    problem: Risk, start: Tensor, *, beta: tuple[float, float], rate: float, steps: int
) -> Tensor:
    """Gradient descent on m and w of θ = m ⊙ w, split with inner scaling beta[0] for a and beta[1] for w.

    Returns θ = [a, w]. Source: [Gadhikar 2025], Algorithm 1 without its rescaling.
    """
    outer = Product(beta[0]).split(start[:, :1])
    inner = Product(beta[1]).split(start[:, 1:])
    first, second = (
        torch.cat([outer[factor], inner[factor]], 1) for factor in Product.factors
    )
    # Both factors move by the old values of each other: with g = η∇L, m² − w² only changes by the factor
    # 1 − g² in a step, so that β holds for as long as steps are small.
    for _ in range(steps):
        gradient = rate * problem.gradient(first * second)
        first, second = first - gradient * second, second - gradient * first
    return first * second


def flow(problem: Risk) -> Field:
    """dθ/dt = −∇L(θ). Source: [Gadhikar 2024], Eq. 1; [Gadhikar 2025], Eq. 2."""
    return lambda time, parameters: -problem.gradient(parameters)


def signin_flow(problem: Risk, beta: tuple[float, float]) -> Field:
    """dθ/dt = −sqrt(θ² + β) ⊙ ∇L(θ), β = beta[0] for a and beta[1] for w. Source: [Gadhikar 2025], Eq. 3."""

    def field(time: Tensor, parameters: Tensor) -> Tensor:
        # The paper's form. Descent on factors with m² − w² = β follows sqrt(4θ² + β²): this flow with
        # β²/4, at twice the speed.
        scaling = torch.full_like(parameters, beta[1])
        scaling[:, 0] = beta[0]
        return -(parameters.square() + scaling).sqrt() * problem.gradient(parameters)

    return field
