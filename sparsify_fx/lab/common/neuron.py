"""One hidden neuron, a·relu(wᵀz), that learns relu(vᵀz): losses and gradients of many runs at once.

A run's parameters are one row [a, w₁, ..., w_d].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Inputs z [runs, n, d] and labels y [runs, n]; every run has its own."""

    inputs: Tensor
    labels: Tensor

    def gradient(self, parameters: Tensor) -> Tensor:
        """∇L of L = 1/(2n) Σ (a·relu(wᵀz) − y)², [runs, 1 + d]. Source: [Gadhikar 2025], Eq. 2."""
        outer, inner = parameters[:, :1], parameters[:, 1:]
        hidden = (self.inputs @ inner[:, :, None])[:, :, 0].relu()
        error = outer * hidden - self.labels
        # relu's derivative at 0 is taken as 0: a neuron at w = 0 is off and stays so.
        active = error * (hidden > 0)
        by_inner = outer * (active[:, None, :] @ self.inputs)[:, 0]
        return (
            torch.cat([(error * hidden).sum(1, keepdim=True), by_inner], 1)
            / self.labels.shape[1]
        )

    def loss(self, parameters: Tensor) -> Tensor:
        """L = 1/(2n) Σ (a·relu(wᵀz) − y)², [runs]."""
        hidden = (self.inputs @ parameters[:, 1:, None])[:, :, 0].relu()
        return (parameters[:, :1] * hidden - self.labels).square().mean(1) / 2

    def some(self, runs: Tensor) -> Samples:
        """The data of the runs at these indices, or where this mask is True."""
        return Samples(self.inputs[runs], self.labels[runs])


@dataclass(frozen=True)
class Population:
    """Infinitely many samples z ~ N(0, I) with labels relu(vᵀz); `teacher` v is [runs, d].

    E[relu(wᵀz) relu(vᵀz)] = |w||v| (sin φ + (π − φ) cos φ) / 2π with φ the angle between w and v.
    At d = 1 a balanced state a = −w stays balanced to the last bit.
    """

    teacher: Tensor

    def gradient(self, parameters: Tensor) -> Tensor:
        """∇ of ½ E (a·relu(wᵀz) − relu(vᵀz))², [runs, 1 + d]; 0 at w = 0, where the neuron is off."""
        outer, inner = parameters[:, :1], parameters[:, 1:]
        overlap, by_inner = self._overlap(inner)
        by_outer = outer * inner.square().sum(1, keepdim=True) / 2 - overlap
        return torch.cat([by_outer, outer.square() * inner / 2 - outer * by_inner], 1)

    def loss(self, parameters: Tensor) -> Tensor:
        """½ E (a·relu(wᵀz) − relu(vᵀz))², [runs]."""
        outer, inner = parameters[:, 0], parameters[:, 1:]
        overlap, _ = self._overlap(inner)
        squares = (
            outer.square() * inner.square().sum(1) / 2
            + self.teacher.square().sum(1) / 2
        )
        return squares / 2 - outer * overlap[:, 0]

    def some(self, runs: Tensor) -> Population:
        """The teachers of the runs at these indices, or where this mask is True."""
        return Population(self.teacher[runs])

    def _overlap(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """E[relu(wᵀz) relu(vᵀz)] [runs, 1] and its gradient by w [runs, d]."""
        size = inner.norm(dim=1, keepdim=True)
        # w = 0 has no direction; the clamp makes it the zero vector instead of NaN.
        direction = inner / size.clamp(min=1e-300)
        along = (direction * self.teacher).sum(1, keepdim=True)
        # The angle by atan2: arccos loses half of its digits near 0 and π, where runs end.
        across = (self.teacher - along * direction).norm(dim=1, keepdim=True)
        angle = torch.atan2(across, along)
        # In this order the overlap is exactly w/2 at d = 1 and w > 0, so that a balanced state stays
        # balanced to the last bit and only rounding that is put in can leave the saddle.
        overlap = size * ((across + (math.pi - angle) * along) / (2 * math.pi))
        slope = (across * direction + (math.pi - angle) * self.teacher) / (2 * math.pi)
        return overlap, torch.where(size > 0, slope, torch.zeros_like(slope))


Problem = Samples | Population


def draw_samples(
    teacher: Tensor, samples: int, generator: torch.Generator, *, noise: float = 0.0
) -> Samples:
    """z ~ N(0, I), y = relu(vᵀz) + N(0, noise²), float64; `teacher` v is [runs, d].

    Raises ValueError for samples < 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    runs, width = teacher.shape
    inputs = torch.randn(runs, samples, width, generator=generator, dtype=torch.float64)
    labels = (inputs @ teacher[:, :, None])[:, :, 0].relu()
    if noise:
        labels = labels + noise * torch.randn(
            runs, samples, generator=generator, dtype=torch.float64
        )
    return Samples(inputs, labels)


def balanced_start(
    runs: int,
    width: int,
    generator: torch.Generator,
    *,
    outer: float = 0.0,
    first: float = 0.0,
) -> Tensor:
    """w ~ N(0, I/d) and |a| = |w|, [runs, 1 + width], float64.

    Args:
        outer, first: +1 or -1 fixes the sign of a and of w₁; 0 leaves it to chance.

    >>> start = balanced_start(3, 5, torch.Generator().manual_seed(0), outer=-1, first=1)
    >>> bool((start[:, 0] < 0).all() and (start[:, 1] > 0).all())
    True

    Source: [Gadhikar 2024], section 2; [Gadhikar 2025], section 5.
    """
    inner = torch.randn(
        runs, width, generator=generator, dtype=torch.float64
    ) / math.sqrt(width)
    # The sign is put on what was drawn: sizes keep their distribution, and every quadrant takes as many
    # draws from the generator.
    if first:
        inner[:, 0] = first * inner[:, 0].abs()
    signs = (
        outer or torch.randn(runs, 1, generator=generator, dtype=torch.float64).sign()
    )
    return torch.cat([signs * inner.norm(dim=1, keepdim=True), inner], 1)


QUADRANTS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
"""Signs of (a, w₁) at the start, in the papers' order."""


def quadrant_name(outer: int, first: int) -> str:
    """The name of a quadrant, as in the papers' tables.

    >>> quadrant_name(-1, 1)
    'a < 0 < w'
    """
    if outer == first:
        return "a, w > 0" if outer > 0 else "a, w < 0"
    return "a < 0 < w" if outer < 0 else "w < 0 < a"


def quadrant_starts(
    runs: int, width: int, generator: torch.Generator, *, scale: float = 1.0
) -> Tensor:
    """`runs` balanced starts in each quadrant, one quadrant after the other; `scale` multiplies w and a."""
    starts = [
        balanced_start(runs, width, generator, outer=outer, first=first)
        for outer, first in QUADRANTS
    ]
    return torch.cat(starts) * scale


def first_axis(runs: int, width: int) -> Tensor:
    """The teacher v = (1, 0, ..., 0), [runs, width]."""
    return torch.eye(1, width, dtype=torch.float64).repeat(runs, 1)
