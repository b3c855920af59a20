"""The net and the batches that the laws are checked on: small, real and seeded."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.errors import LawError
from sparsify_fx.programs.owners import programs


def small_net(seed: int = 0) -> nn.Sequential:
    """Convolution, batch norm, grouped convolution and a linear layer; 8x8 inputs of 3 channels, 4 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 4),
    )


@functools.cache
def batch(seed: int = 0, size: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs [size, 3, 8, 8] and labels [size]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(
        0, 4, (size,), generator=generator
    )


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, as `apply(loss_fn=...)` takes it."""
    return F.cross_entropy(outputs, targets)


def train_step(
    model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, seed: int = 0
) -> Tensor:
    """One step on one batch; the gradients are left for inspection."""
    inputs, labels = batch(seed)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def effective(model: nn.Module) -> dict[str, Tensor]:
    """What the layers see: each program run as the forward runs it."""
    with torch.no_grad():
        return {name: program().clone() for name, program in programs(model).items()}


def ensure(holds: object, told: str) -> None:
    """LawError with `told` unless `holds`. An `assert` would vanish under `python -O`."""
    if not holds:
        raise LawError(told)
