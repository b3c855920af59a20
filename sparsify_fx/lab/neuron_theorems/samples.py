"""What a finite noisy sample makes of one neuron at d = 1, against [Gadhikar 2024], appendix A.1."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsify_fx.lab.common.flow import integrate
from sparsify_fx.lab.common.neuron import QUADRANTS, draw_samples, first_axis
from sparsify_fx.lab.neuron_lrr.closed_forms import corrected
from sparsify_fx.lab.neuron_signin.descent import flow


@dataclass(frozen=True)
class Finite:
    """Of one quadrant: the largest error of the closed form of |w(t)| and |a(t)|, and the share of runs with C̃₂ > 0."""

    off: float
    alive: float


def finite_samples(
    runs: int, samples: int, noise: float, time: float, seed: int
) -> tuple[dict[tuple[int, int], Finite], float, float]:
    """By quadrant, where the flow is at `time`; then the variances of C₂/C₁ and of linear regression.

    C₁ = Σ x²/n and C₂ = Σ xy/n over the samples that the neuron sees at the start; C̃₂ = C₂ sign(a) sign(w).
    """
    generator = torch.Generator().manual_seed(seed)
    found, ratios, plain = {}, torch.empty(0), torch.empty(0)
    for outer, first in QUADRANTS:
        problem = draw_samples(first_axis(runs, 1), samples, generator, noise=noise)
        inputs, labels = problem.inputs[..., 0], problem.labels
        size = torch.full((runs, 1), 0.8, dtype=torch.float64)
        start = torch.cat([outer * size, first * size], 1)
        end = integrate(flow(problem), start, torch.tensor([0.0, time]).double())[-1]
        seen = first * inputs > 0
        square = (inputs.square() * seen).mean(1)
        product = (inputs * labels * seen).mean(1) * outer * first
        # Both factors have one size, |w|, whose closed form is exact at every time, not in the limit alone.
        sizes = [
            corrected(torch.tensor(time).double(), 0.8, float(one), float(two))
            for one, two in zip(square, product, strict=True)
        ]
        off = float((end.abs() - torch.stack(sizes)[:, None]).abs().max())
        found[outer, first] = Finite(off, float((product > 0).double().mean()))
        if (outer, first) == (1, 1):
            ratios = product / square
            # Linear regression y = x + ζ on all samples, of which the neuron sees half.
            noises = labels - inputs.relu()
            plain = (inputs * noises).sum(1) / inputs.square().sum(1)
    return found, float(ratios.var()), float(plain.var())
