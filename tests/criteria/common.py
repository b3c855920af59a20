"""Small nets in float64 and the contexts that criteria get."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import Criterion, PruningContext, pruning_generator
from sparsify_fx.programs.selection import select_layers
from tests.conftest import batch, small_net


def net_of(kind: str) -> nn.Module:
    """ "bn": convolutions with batch norm; "plain": without; both in float64 and in training mode, outputs smooth."""
    if kind == "bn":
        model = small_net()
        model[2], model[5] = nn.Tanh(), nn.Tanh()
        return model.double()
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(36, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
    ).double()


def batches_of(count: int = 2, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of float64 inputs."""
    found = [batch(seed, size) for seed in range(count)]
    return [(inputs.double(), labels) for inputs, labels in found]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The prunable weights, detached copies."""
    return {
        name: layer.weight.detach().clone()
        for name, layer in select_layers(model).items()
    }


def context_of(model: nn.Module, **changes: Any) -> PruningContext:
    """Two batches, cross-entropy, half of the weights."""
    weights = weights_of(model)
    total = sum(weight.numel() for weight in weights.values())
    given: dict[str, Any] = {
        "weights": weights,
        "generator": pruning_generator(0),
        "kept": total // 2,
        "allocation": Global(),
        "model": model,
        "batches": batches_of(),
        "loss_fn": F.cross_entropy,
    }
    return PruningContext(**(given | changes))


def mean_loss(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], temperature: float = 1.0
) -> Tensor:
    """The mean over the batches of the loss, by an ordinary forward (which moves running statistics)."""
    losses = [
        F.cross_entropy(model(inputs) / temperature, labels)
        for inputs, labels in batches
    ]
    return torch.stack(losses).mean()


def scores_of(
    criterion: Criterion, model: nn.Module, **changes: Any
) -> dict[str, Tensor]:
    return criterion.scores(context_of(model, **changes))
