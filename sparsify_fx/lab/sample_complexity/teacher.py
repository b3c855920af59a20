"""A one-hidden-layer teacher and student with masks: y = 1/K Σ_j relu(w_jᵀ x_Ωj), learned by (accelerated) descent.

Many runs at once; a neuron only ever sees the inputs that its mask keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masked:
    """Samples of several runs, neuron by neuron: inputs x_Ωj [runs, K, N, r] and labels y [runs, N]."""

    inputs: Tensor
    labels: Tensor

    def outputs(self, weights: Tensor) -> Tensor:
        """1/K Σ_j relu(w_jᵀ x_Ωj) for weights [runs, K, r], [runs, N]."""
        return (self.inputs @ weights[..., None])[..., 0].relu().mean(1)

    def gradient(self, weights: Tensor) -> Tensor:
        """∇f of f = 1/(2N) Σ (output − y)², [runs, K, r]. Source: [Zhang 2021], Eq. 2."""
        before = (self.inputs @ weights[..., None])[..., 0]
        error = before.relu().mean(1) - self.labels
        # relu's derivative at 0 is taken as 0.
        active = error[:, None] * (before > 0)
        slope: Tensor = (active[:, :, None] @ self.inputs)[:, :, 0]
        return slope / (self.inputs.shape[1] * self.inputs.shape[2])

    def some(self, runs: Tensor) -> Masked:
        """The samples of the runs at these indices, or where this mask is True."""
        return Masked(self.inputs[runs], self.labels[runs])


@dataclass(frozen=True)
class Dense:
    """The same where every neuron sees all inputs: inputs [runs, N, d] once for all neurons, weights [runs, K, d]."""

    inputs: Tensor
    labels: Tensor

    def outputs(self, weights: Tensor) -> Tensor:
        """1/K Σ_j relu(w_jᵀ x), [runs, N]."""
        return (self.inputs @ weights.mT).relu().mean(2)

    def gradient(self, weights: Tensor) -> Tensor:
        """∇f of f = 1/(2N) Σ (output − y)², [runs, K, d]."""
        before = self.inputs @ weights.mT
        error = before.relu().mean(2) - self.labels
        # One product for all neurons: K times less memory to read than neuron by neuron.
        slope: Tensor = (error[..., None] * (before > 0)).mT @ self.inputs
        return slope / (weights.shape[1] * self.inputs.shape[1])

    def some(self, runs: Tensor) -> Dense:
        """The samples of the runs at these indices, or where this mask is True."""
        return Dense(self.inputs[runs], self.labels[runs])


def draw_dense(
    teacher: Tensor, samples: int, generator: torch.Generator, *, noise: float = 0.0
) -> Dense:
    """x ~ N(0, I) and the labels of a teacher [runs, K, d] with zeros, with noise as `draw_masked` has it."""
    runs, _, width = teacher.shape
    inputs = torch.randn(runs, samples, width, generator=generator)
    clean = Dense(inputs, torch.zeros(runs, samples)).outputs(teacher)
    energy = clean.square().mean(1, keepdim=True).sqrt()
    drawn = torch.randn(runs, samples, generator=generator)
    return Dense(inputs, clean + noise * energy * drawn)


def draw_masks(
    runs: int, neurons: int, width: int, kept: int, generator: torch.Generator
) -> Tensor:
    """Ω: `kept` of `width` inputs for every neuron, in increasing order, [runs, K, kept]."""
    # The order of random numbers is a random permutation: each neuron has masks without repetition.
    order = torch.rand(runs, neurons, width, generator=generator).argsort(-1)
    return order[..., :kept].sort(-1).values


def draw_teacher(
    runs: int, neurons: int, kept: int, generator: torch.Generator
) -> Tensor:
    """W* with entries uniform in [-0.5, 0.5], [runs, K, r]. Source: [Zhang 2021], section 5."""
    return torch.rand(runs, neurons, kept, generator=generator) - 0.5


def draw_masked(
    teacher: Tensor,
    masks: Tensor,
    width: int,
    samples: int,
    generator: torch.Generator,
    *,
    noise: float = 0.0,
) -> Masked:
    """x ~ N(0, I), y = teacher's output + N(0, (noise·E_y)²), E_y the root mean square of the noiseless outputs."""
    runs, neurons, _ = masks.shape
    # One x for all neurons of a run, which share inputs where their masks overlap.
    inputs = torch.randn(runs, 1, samples, width, generator=generator).expand(
        -1, neurons, -1, -1
    )
    seen = inputs.gather(3, masks[:, :, None].expand(-1, -1, samples, -1)).contiguous()
    clean = Masked(seen, torch.zeros(runs, samples)).outputs(teacher)
    energy = clean.square().mean(1, keepdim=True).sqrt()
    # Drawn without noise too, so that the generator goes on from the same place at every noise level.
    drawn = torch.randn(runs, samples, generator=generator)
    return Masked(seen, clean + noise * energy * drawn)


def perturbed(
    teacher: Tensor, distance: Tensor | float, generator: torch.Generator
) -> Tensor:
    """W⁽⁰⁾ with |W⁽⁰⁾ − W*| = distance·|W*| in a random direction; `distance` is a number or [runs]."""
    direction = torch.randn(teacher.shape, generator=generator)
    length = norm(teacher) * distance / norm(direction)
    return teacher + length[:, None, None] * direction


def norm(weights: Tensor) -> Tensor:
    """The Frobenius norm of every run, [runs]."""
    size: Tensor = weights.flatten(1).norm(dim=1)
    return size


def relative_error(weights: Tensor, teacher: Tensor) -> Tensor:
    """|W − W*| / |W*|, [runs]."""
    return norm(weights - teacher) / norm(teacher)


def accelerated(
    problem: Masked | Dense,
    start: Tensor,
    *,
    rate: float,
    momentum: float,
    steps: int,
    teacher: Tensor | None = None,
    enough: float = 0.0,
    every: int = 0,
) -> tuple[Tensor, Tensor]:
    """W⁽ᵗ⁺¹⁾ = W⁽ᵗ⁾ − η∇f(W⁽ᵗ⁾) + β(W⁽ᵗ⁾ − W⁽ᵗ⁻¹⁾); plain descent at β = 0.

    A run ends when a step moves it by less than 1e-8 of its norm, or, with a `teacher`, when its relative error is
    below `enough`; finished runs leave the batch.

    Args:
        every: with a teacher, its relative error is kept every so many steps; 0 keeps none.

    Returns the weights, and the kept errors [points, runs] (an ended run repeats its last).

    Source: [Zhang 2021], Algorithm 1, with all data in each step as in its section 5.
    """
    # `runs` holds where the runs that still move stand in the full batch, which shrinks as they end.
    runs = torch.arange(len(start))
    found, before, now = start.clone(), start, start
    kept = [relative_error(start, teacher)] if every and teacher is not None else []
    for index in range(steps):
        step = momentum * (now - before)
        now, before = now - rate * problem.gradient(now) + step, now
        if every and teacher is not None and (index + 1) % every == 0:
            errors = kept[-1].clone()
            errors[runs] = relative_error(now, teacher[runs])
            kept.append(errors)

        # Who has ended is asked every 20 steps: taking runs out copies the data of all others.
        if (index + 1) % 20 == 0:
            going = norm(now - before) >= 1e-8 * norm(now)
            if teacher is not None:
                going &= relative_error(now, teacher[runs]) >= enough
            found[runs] = now
            if not bool(going.all()):
                runs, problem = runs[going], problem.some(going)
                now, before = now[going], before[going]
            if len(runs) == 0:
                break
    found[runs] = now
    return found, torch.stack(kept) if kept else found.new_zeros(0, len(start))
