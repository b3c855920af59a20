"""Several hidden neurons, Σ a_i relu(w_iᵀz), that learn a teacher with fewer: losses, gradients and starts.

A run's parameters are one row [a_1, ..., a_k, w_11, ..., w_1d, w_21, ...].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """Inputs z [runs, n, d] and labels y [runs, n] of runs whose students have `neurons` hidden neurons each."""

    inputs: Tensor
    labels: Tensor
    neurons: int

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """a [runs, k] and w [runs, k, d] of rows [runs, k·(1 + d)]."""
        outer, inner = parameters[:, : self.neurons], parameters[:, self.neurons :]
        return outer, inner.reshape(len(inner), self.neurons, -1)

    def outputs(self, parameters: Tensor) -> Tensor:
        """Σ a_i relu(w_iᵀz), [runs, n]."""
        outer, inner = self.split(parameters)
        hidden = (self.inputs @ inner.transpose(1, 2)).relu()
        summed: Tensor = hidden @ outer[:, :, None]
        return summed[:, :, 0]

    def loss(self, parameters: Tensor) -> Tensor:
        """L = 1/(2n) Σ (output − y)², [runs]."""
        return (self.outputs(parameters) - self.labels).square().mean(1) / 2

    def gradient(self, parameters: Tensor) -> Tensor:
        """∇L of L = 1/(2n) Σ (output − y)², [runs, k·(1 + d)]."""
        outer, inner = self.split(parameters)
        hidden = (self.inputs @ inner.transpose(1, 2)).relu()
        error = (hidden @ outer[:, :, None]) - self.labels[:, :, None]
        by_outer = (hidden * error).sum(1)
        # As in the single neuron, relu's derivative at 0 is taken as 0.
        active = (hidden > 0) * error * outer[:, None]
        by_inner = active.transpose(1, 2) @ self.inputs
        return torch.cat([by_outer, by_inner.flatten(1)], 1) / self.labels.shape[1]


def draw_teachers(
    runs: int, neurons: int, width: int, generator: torch.Generator
) -> Tensor:
    """ã_i = ±1, not all of them +1, and w̃_i ~ N(0, I) scaled to length 1: [runs, k·(1 + d)], float64.

    Source: [Gadhikar 2025], section 5 and appendix C, which keeps the teachers with ã = 1 for all neurons too: from
    a_i > 0 those have no bad sign.
    """
    outer = torch.randn(runs, neurons, generator=generator, dtype=torch.float64).sign()
    one = torch.randint(neurons, (runs,), generator=generator)
    happy = (outer > 0).all(1)
    # One neuron, at random, gets the sign that makes a > 0 for all a bad start.
    outer[happy, one[happy]] = -1.0
    inner = torch.randn(runs, neurons, width, generator=generator, dtype=torch.float64)
    return torch.cat([outer, (inner / inner.norm(dim=2, keepdim=True)).flatten(1)], 1)


def draw_layer(
    teacher: Tensor, neurons: int, width: int, samples: int, generator: torch.Generator
) -> Layer:
    """z ~ N(0, I_d), y = the teacher's output, for teachers [runs, k·(1 + d)]."""
    inputs = torch.randn(
        len(teacher), samples, width, generator=generator, dtype=torch.float64
    )
    # Its outputs need no labels; any of the right shape will do for the layer that computes them.
    unlabeled = Layer(inputs, inputs[:, :, 0], neurons)
    return Layer(inputs, unlabeled.outputs(teacher), neurons)


def draw_sizes(
    runs: int, neurons: int, width: int, generator: torch.Generator, *, balanced: bool
) -> tuple[Tensor, Tensor]:
    """w ~ N(0, I/d) [runs, k, d], and the sizes of a [runs, k]: |a_i| = |w_i|, or drawn as |N(0, 1/d)|."""
    inner = torch.randn(
        runs, neurons, width, generator=generator, dtype=torch.float64
    ) / math.sqrt(width)
    # Drawn for a balanced start too, which does not use it: both kinds leave the generator at one place.
    own = torch.randn(
        runs, neurons, generator=generator, dtype=torch.float64
    ).abs() / math.sqrt(width)
    return inner.norm(dim=2) if balanced else own, inner


def bad_signs(sizes: Tensor, inner: Tensor) -> Tensor:
    """a_i > 0 for every neuron, w as drawn. Source: [Gadhikar 2025], appendix C."""
    return torch.cat([sizes, inner.flatten(1)], 1)


def good_signs(sizes: Tensor, inner: Tensor, teacher: Tensor) -> Tensor:
    """Every a_i and w_ij takes its teacher's sign; the sizes stay. Source: [Gadhikar 2025], appendix C."""
    return torch.cat([sizes, inner.abs().flatten(1)], 1) * teacher.sign()


def paired(sizes: Tensor, inner: Tensor) -> Tensor:
    """Neurons twice, a opposite: the output starts at zero, [runs, 2k·(1 + d)]. Source: [Gadhikar 2025], appendix C."""
    return torch.cat([sizes, -sizes, inner.flatten(1), inner.flatten(1)], 1)
