"""The tensor initialization of a masked one-hidden-layer network: a method of moments on x̃ = Σ_j x_Ωj / √K.

For x ~ N(0, I) and masks with little overlap (cov(x̃, x_Ωj) ≈ I/√K), with w̄ = w/|w| and φ = relu:

    E[y x̃]           = Σ_j |w_j| w̄_j / (2 K√K)
    E[y (x̃x̃ᵀ − I)]   = Σ_j |w_j| w̄_j w̄_jᵀ / (√(2π) K²)
    E[y H₄(x̃)]       = −Σ_j |w_j| w̄_j⊗w̄_j⊗w̄_j⊗w̄_j / (√(2π) K³)

relu's third Hermite moment vanishes, so the fourth is taken. The second moment's top K eigenvectors span the neurons
and whiten the fourth, which is only formed in that span; the tensor power method finds its components. The first moment
gives lengths and signs. Which component is which neuron's: the assignment with the smallest empirical risk.

Source: [Zhang 2021], section 4, after [Zhong 2017],
Algorithm 1, which contracts the fourth moment with a random vector instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.sample_complexity.teacher import (
    Masked,
    accelerated,
    draw_masked,
    draw_masks,
    draw_teacher,
    relative_error,
)


@dataclass(frozen=True)
class MomentSize:
    """How large the check of the initialization is."""

    runs: int = 10
    neurons: int = 2
    width: int = 200
    kept: int = 6
    samples: tuple[int, ...] = (50_000, 200_000, 800_000)
    chunk: int = 50_000
    steps: int = 2000


@dataclass(frozen=True)
class StartQuality:
    """Relative error of the start, and the share of runs that Algorithm 1 takes from it to the teacher."""

    samples: int
    error: Mean
    median: float
    success: float


def centered(chunk: Masked) -> tuple[Tensor, Tensor]:
    """x̃ [N, r] and the labels less their mean, of masked samples [1, K, N, r]."""
    point = chunk.inputs[0].sum(0) / math.sqrt(chunk.inputs.shape[1])
    return point, chunk.labels[0] - chunk.labels[0].mean()


def low_moments(chunks: Iterable[Masked]) -> tuple[Tensor, Tensor]:
    """E[y x̃], [r], and E[y (x̃x̃ᵀ − I)], [r, r], over all chunks; y is centered, so that the identity drops out."""
    firsts, seconds, count = [], [], 0
    for point, label in map(centered, chunks):
        firsts.append(label @ point)
        seconds.append((point * label[:, None]).T @ point)
        count += len(label)
    return torch.stack(firsts).sum(0) / count, torch.stack(seconds).sum(0) / count


def fourth_moment(
    chunks: Iterable[Masked], first: Tensor, second: Tensor, whiten: Tensor
) -> Tensor:
    """E[y H₄(z)], [K, K, K, K], with z = whitenᵀ x̃ of covariance C = whitenᵀ whiten.

    H₄ = z⊗z⊗z⊗z − Σ₆ C⊗z⊗z + Σ₃ C⊗C. The linear and quadratic parts of y are taken off first: they do not change the
    mean, and most of the noise is theirs.
    """
    neurons, covariance = whiten.shape[1], whiten.T @ whiten
    total, count = torch.zeros(neurons**2, neurons**2), 0
    squares = torch.zeros(neurons, neurons)
    for point, label in map(centered, chunks):
        rest = label - point @ first - ((point @ second) * point).sum(1) / 2
        rest = rest - rest.mean()

        # As a matrix [K², K²] of pairs: a product of matrices, with no tensor [N, K, K, K, K] between.
        inner = point @ whiten
        pairs = (inner[:, :, None] * inner[:, None]).flatten(1)
        total = total + (pairs * rest[:, None]).T @ pairs
        squares = squares + (inner * rest[:, None]).T @ inner
        count += len(label)

    # The six places of Σ₆ C⊗z⊗z. Σ₃ C⊗C drops out, since the labels that weight it have mean zero.
    tensor = total.view(neurons, neurons, neurons, neurons)
    for places in ("ij,kl", "ik,jl", "il,jk", "jk,il", "jl,ik", "kl,ij"):
        tensor = tensor - torch.einsum(f"{places}->ijkl", covariance, squares)
    return tensor / count


def directions(
    chunks: Sequence[Masked], first: Tensor, second: Tensor, generator: torch.Generator
) -> Tensor:
    """Unit vectors ±w̄_j, [K, r], from the whitened fourth moment by the power method with deflation."""
    # 1. Whiten by the second moment, whose top K eigenvectors span the neurons. In that span the fourth
    # moment is a sum of orthogonal components, and small: K⁴ entries instead of r⁴.
    neurons = chunks[0].inputs.shape[1]
    values, vectors = torch.linalg.eigh(second)
    values, vectors = values[-neurons:].clamp(min=1e-12), vectors[:, -neurons:]
    tensor = -fourth_moment(chunks, first, second, vectors / values.sqrt())

    # 2. The power method finds a component, deflation takes it off. It converges to any of them, and from
    # an unlucky start slowly: of 20 random starts the one with the largest weight counts.
    rows = []
    for _ in range(neurons):
        component = torch.randn(20, neurons, generator=generator)
        for _ in range(50):
            component = component / component.norm(dim=1, keepdim=True)
            component = torch.einsum(
                "ijkl,nj,nk,nl->ni", tensor, component, component, component
            )
        component = component / component.norm(dim=1, keepdim=True)
        weights = torch.einsum(
            "ijkl,ni,nj,nk,nl->n", tensor, component, component, component, component
        )
        unit = component[int(weights.argmax())]
        tensor = tensor - weights.max() * torch.einsum(
            "i,j,k,l->ijkl", unit, unit, unit, unit
        )

        # 3. Back to the inputs; the sign is open, since the fourth power knows none.
        row = (vectors * values.sqrt()) @ unit
        rows.append(row / row.norm())
    return torch.stack(rows)


def tensor_start(
    chunks: Sequence[Masked], sample: Masked, generator: torch.Generator
) -> Tensor:
    """W⁽⁰⁾ [1, K, r]: the directions, scaled and signed by the first moment, and assigned by the risk on `sample`."""
    first, second = low_moments(chunks)
    neurons = sample.inputs.shape[1]
    rows = directions(chunks, first, second, generator)
    lengths = torch.linalg.lstsq(rows.T, 2 * neurons**1.5 * first[:, None]).solution
    weights: Tensor = rows * lengths
    # Which row is which neuron's, no moment tells: all K! orders are tried, so that K has to be small.
    orders = [weights[list(order)] for order in itertools.permutations(range(neurons))]
    risks = [
        float((sample.outputs(order[None]) - sample.labels).square().mean())
        for order in orders
    ]
    return orders[risks.index(min(risks))][None]


def start_qualities(size: MomentSize, seed: int) -> list[StartQuality]:
    """How near the tensor initialisation comes by samples, and whether Algorithm 1 succeeds from it (Lemma 1)."""
    return [_quality(size, samples, seed) for samples in size.samples]


def _quality(size: MomentSize, samples: int, seed: int) -> StartQuality:
    """The runs one after the other: a single one has millions of numbers."""
    errors, ends = [], []
    for run in range(size.runs):
        generator = torch.Generator().manual_seed(seed * 100_003 + run)
        masks = draw_masks(1, size.neurons, size.width, size.kept, generator)
        teacher = draw_teacher(1, size.neurons, size.kept, generator)
        chunks = list(_chunks(teacher, masks, size, samples, generator))
        start = tensor_start(chunks, _head(chunks[0]), generator)
        errors.append(relative_error(start, teacher))
        end, _ = accelerated(
            _head(chunks[0]),
            start,
            rate=2.0,
            momentum=0.8,
            steps=size.steps,
            teacher=teacher,
            enough=1e-4,
        )
        ends.append(relative_error(end, teacher) < 1e-4)
    found = torch.cat(errors)
    return StartQuality(
        samples,
        mean_with_interval(found),
        float(found.median()),
        float(torch.cat(ends).double().mean()),
    )


def _chunks(
    teacher: Tensor,
    masks: Tensor,
    size: MomentSize,
    samples: int,
    generator: torch.Generator,
) -> Iterator[Masked]:
    for begin in range(0, samples, size.chunk):
        yield draw_masked(
            teacher, masks, size.width, min(size.chunk, samples - begin), generator
        )


def _head(chunk: Masked) -> Masked:
    """The first 1,000 samples: enough to train on and to rank assignments."""
    return Masked(chunk.inputs[:, :, :1000], chunk.labels[:, :1000])
