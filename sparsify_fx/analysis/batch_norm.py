"""Batch norm: its scales, its statistics of a batch, and how to estimate the running ones again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify_fx.errors import AnalysisError

SMALL = 1e-2
"""A scale below this, in size, counts as vanished."""


@dataclass(frozen=True)
class Scales:
    """The scales γ of one batch norm: quantiles 0, 1/4, 1/2, 3/4, 1; vanished: abs(γ) < SMALL; negative: γ < 0."""

    channels: int
    quantiles: tuple[float, ...]
    vanished: int
    negative: int


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every batch norm by name; found by type, never by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    }


def scale_names(model: nn.Module) -> list[str]:
    """State-dict names of all scales γ, in module order; batch norms without one (affine=False) are left out."""
    return [
        f"{name}.weight" if name else "weight"
        for name, norm in batch_norms(model).items()
        if norm.affine
    ]


def describe_scales(scale: Tensor) -> Scales:
    """Quantiles and counts of the γ of one batch norm, [channels].

    >>> describe_scales(torch.tensor([0.0, 1.0, 2.0, -1.0, 1.0]))
    Scales(channels=5, quantiles=(-1.0, 0.0, 1.0, 1.0, 2.0), vanished=1, negative=1)

    Source: [Gadhikar 2024], Figs. 10 and 11.
    """
    # float64, since `quantile` interpolates: float32 would round what lies between two scales.
    values = scale.detach().double().flatten()
    quantiles = torch.quantile(
        values, torch.linspace(0, 1, 5, dtype=torch.float64, device=values.device)
    )
    small = int((values.abs() < SMALL).sum())
    return Scales(
        values.numel(), tuple(quantiles.tolist()), small, int((values < 0).sum())
    )


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> nn.Module:
    """Set running mean and variance of every batch norm to their means over `batches`, in place; eval mode after.

    Batch norms see the statistics of each batch meanwhile, all other layers are in eval mode. A network between two
    others has activations that the statistics of neither fit. A model without batch norm stays as it is.

    Raises AnalysisError when there is no batch.

    >>> norm = nn.BatchNorm1d(1)
    >>> _ = reestimate(norm, [(torch.tensor([[1.0], [3.0]]), None)])
    >>> norm.running_mean, norm.running_var
    (tensor([2.]), tensor([2.]))

    Source: [Izmailov 2018], section 3.2; [Jordan 2023] (REPAIR) for interpolated networks.
    """
    # 1. Without running statistics there is nothing to estimate: such a norm always takes the batch's.
    norms = [norm for norm in batch_norms(model).values() if norm.track_running_stats]
    model.eval()
    if not norms:
        return model

    # 2. A momentum of None makes torch keep the plain mean over all batches, with equal weights.
    momenta, count = [norm.momentum for norm in norms], 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for inputs, _ in batches:
        model(inputs)
        count += 1

    # 3. Momenta and modes go back before the error is raised too.
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    if count == 0:
        raise AnalysisError(
            "re-estimating batch norm needs at least one batch of training data"
        )
    return model
