"""What the trainers train: a small net on made-up images, by methods that use every kind of event."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import sparsify_fx
from tests.conftest import batch, small_net
from tests.scheduler.test_resume import alternating, differences

EPOCHS, STEPS, BATCH = 4, 3, 8
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {},
    "lrr": {"sparsity": 0.2},  # two runs
    "signin": {},
    "rigl": {"batches": [batch(100)], "loss_fn": F.cross_entropy},
    "acdc+signin": alternating(0.2, 0.4),
}

__all__ = [
    "BATCH",
    "EPOCHS",
    "METHODS",
    "STEPS",
    "dataset",
    "differences",
    "prepared",
    "sgd",
]


def dataset(batches: int = STEPS, size: int = BATCH) -> TensorDataset:
    """As many images as `batches` batches have."""
    return TensorDataset(*batch(7, batches * size))


def prepared(method: str) -> nn.Module:
    """A small net, ready for `method`."""
    options = {"sparsity": 0.5, **METHODS[method]}
    return sparsify_fx.apply(small_net(), method, **options)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all tests."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def loss_of(
    model: nn.Module, inputs: Tensor, targets: Tensor, scheduler: sparsify_fx.Scheduler
) -> Tensor:
    """The loss with the method's penalty; methods that score a batch take this one."""
    if scheduler.needs_batch:
        scheduler.score_on(inputs, targets)
    return F.cross_entropy(model(inputs), targets) + scheduler.penalty()
