"""The net and the batches that the laws are checked on: small, real and seeded."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.criteria import FindsSparsity
from sparsify_fx.errors import LawError, UnfinishedWarning
from sparsify_fx.masks import kept_count, top_masks
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers


def small_net(seed: int = 0) -> nn.Sequential:
    """Convolution, batch norm, grouped convolution and a linear layer; 8x8 inputs of 3 channels, 4 classes."""
    # 792 prunable weights: small enough for hundreds of trainings, with a layer of each kind that prunes
    # in a way of its own, with and without a bias.
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


@torch.no_grad()
def pruned_net(sparsity: float, seed: int = 0) -> nn.Sequential:
    """The small net of which somebody has made the smallest weights zero, for methods that take zeros as they are."""
    net = small_net(seed)
    # Found by their owners' kind, as `apply` finds them: the norms stay whole.
    weights = {name: layer.weight for name, layer in select_layers(net).items()}
    total = sum(weight.numel() for weight in weights.values())
    sizes = {name: weight.abs() for name, weight in weights.items()}
    for name, mask in top_masks(sizes, kept_count(total, sparsity)).items():
        weights[name].mul_(mask)
    return net


def net_for(criterion: object, sparsity: float) -> nn.Sequential:
    """The small net as a method with this criterion expects it: dense, or with zeros where it takes those."""
    found = isinstance(criterion, FindsSparsity)
    return pruned_net(sparsity) if found else small_net()


@functools.cache
def batch(seed: int = 0, size: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs [size, 3, 8, 8] and labels [size]."""
    # Noise with random labels: nothing to learn in general, but a loss that falls and gradients everywhere.
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 3, 8, 8, generator=generator)
    return inputs, torch.randint(0, 4, (size,), generator=generator)


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


def alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors have the same names and equal values."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@contextlib.contextmanager
def merged_at_once() -> Iterator[None]:
    """The laws merge models in the middle of their schedule, of which `merge` would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfinishedWarning)
        yield
