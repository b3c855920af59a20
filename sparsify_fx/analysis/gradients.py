"""Gradient flow: how large the gradient of the kept weights is in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from sparsify_fx.analysis.loss import MeanLoss


@dataclass(frozen=True)
class GradientNorm:
    """norm: `‖∇_θ L ⊙ mask‖₂` of one layer with `weights` kept weights."""

    norm: float
    weights: int

    @property
    def rms(self) -> float:
        """norm / sqrt(weights), comparable between layers of other sizes; 0.0 for a layer without weights."""
        return self.norm / self.weights**0.5 if self.weights else 0.0


def gradient_flow(
    loss: MeanLoss, masks: Mapping[str, Tensor]
) -> dict[str, GradientNorm]:
    """The gradient norm of the kept weights of each layer that `masks` names, of the mean over all samples.

    Args:
        loss: of a plain model, from `mean_loss`; its gradient is that of the effective weights θ.
        masks: by name of the weight.

    Source: [Evci 2022].
    """
    # Norms of the mean gradient and not the mean of norms, which would count the noise between batches too.
    total = {name: torch.zeros_like(loss.point[name]) for name in masks}
    for share, term in loss.terms:
        gradient = grad(term)(loss.point)
        total = {name: value + share * gradient[name] for name, value in total.items()}
    found = {}
    for name, mask in masks.items():
        # Selected, not multiplied by the mask: `weights` counts entries, of which some may have no gradient.
        kept = total[name][mask.to(total[name].device).bool()]
        found[name] = GradientNorm(float(kept.norm()), kept.numel())
    return found
