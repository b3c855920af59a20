"""One neuron a·relu(wz) at d = 1 whose a and w are functions of other numbers: flows, and descent in the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.api import apply
from sparsify_fx.lab.common.neuron import Population
from sparsify_fx.parameterizations import Product


@dataclass(frozen=True)
class Reparameterization:
    """θ = value(tensors) of tensors [runs, factors], and the tensors that make θ."""

    factors: int
    value: Callable[[Tensor], Tensor]
    split: Callable[[Tensor], Tensor]


def _product(theta: Tensor) -> Tensor:
    found = Product(1.0).split(theta)
    return torch.stack([found["m"], found["w"]], -1)


def _deep(theta: Tensor) -> Tensor:
    """Three factors, two of them the cube root of 0.1 + |θ|: none of them is large, and none is zero."""
    outer = (0.1 + theta.abs()) ** (1 / 3)
    return torch.stack([outer, outer, theta / outer.square()], -1)


def _power(theta: Tensor) -> Tensor:
    return (theta.sign() * theta.abs().sqrt())[:, None]


def _soft(theta: Tensor) -> Tensor:
    """A threshold of σ(−2) that learns, and the number that it leaves θ of."""
    threshold = torch.full_like(theta, -2.0)
    return torch.stack([theta + theta.sign() * threshold.sigmoid(), threshold], -1)


def _thresholded(t: Tensor) -> Tensor:
    return t[:, 0].sign() * (t[:, 0].abs() - t[:, 1].sigmoid()).relu()


REPARAMETERIZATIONS = {
    "plain": Reparameterization(1, lambda t: t[:, 0], lambda theta: theta[:, None]),
    "product": Reparameterization(2, lambda t: t.prod(-1), _product),
    "deep product": Reparameterization(3, lambda t: t.prod(-1), _deep),
    "soft threshold": Reparameterization(2, _thresholded, _soft),
    "power": Reparameterization(1, lambda t: t[:, 0] * t[:, 0].abs(), _power),
}


def follow(
    how: Reparameterization, start: Tensor, *, rate: float, steps: int
) -> Tensor:
    """Ends [runs, 2] of descent in the tensors that make a and w, from `start` [runs, 2] = (a, w), on N(0, 1) inputs.

    Steps are small in place of a flow: near w = 0 the slope is proportional to w, so that neither crosses it.
    """
    problem, factors = Population(torch.ones(len(start), 1).double()), how.factors

    def weights(flat: Tensor) -> Tensor:
        halves = (flat[:, :factors], flat[:, factors:])
        return torch.stack([how.value(half) for half in halves], 1)

    tensors = torch.cat([how.split(start[:, 0]), how.split(start[:, 1])], 1)
    for _ in range(steps):
        # The slope in the tensors is that in a and w through the map: by autograd, without a formula of its own.
        tensors = tensors.detach().requires_grad_()
        theta = weights(tensors)
        term = (theta * problem.gradient(theta.detach())).sum()
        (slope,) = torch.autograd.grad(term, tensors)
        tensors = tensors - rate * slope
    return weights(tensors.detach())


def by_layer(
    start: Tensor, betas: tuple[float, float], *, rate: float, steps: int
) -> Tensor:
    """Ends [runs, 2] of gradient descent in the library, with β = betas[0] for a's layer and betas[1] for w's.

    All runs are one net: a grouped convolution is one neuron for each group.
    """
    runs = len(start)
    inner, outer = (nn.Conv1d(runs, runs, 1, groups=runs, bias=False) for _ in "wa")
    model = nn.Sequential(inner, nn.ReLU(), outer).double()
    with torch.no_grad():
        outer.weight.copy_(start[:, :1, None])
        inner.weight.copy_(start[:, 1:, None])
    layers = {
        "0": {"name": "product", "beta": betas[1]},
        "2": {"name": "product", "beta": betas[0]},
    }
    apply(model, method="random", sparsity=0.0, parameterization=layers)
    # Two samples, 1 and −1, stand for N(0, 1): at d = 1 a neuron sees of a symmetric sample its second moment alone.
    inputs = torch.tensor([1.0, -1.0]).double().expand(1, runs, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        loss = F.mse_loss(model(inputs), inputs.relu(), reduction="sum") / 4
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    ends = [layer.weight.detach().flatten() for layer in (outer, inner)]
    return torch.stack(ends, 1)
