"""Twins: the same training in full and in living storage, side by side."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import sparsify_fx
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.zoo.data import load_data

Batch = tuple[Tensor, Tensor]

STORAGES = ("full", "living")
SPARSITY = 0.8

# Every parameterization that is made entry by entry.
PARAMETERIZATIONS = (
    "dense",
    "product",
    "balanced-product",
    "power-propagation",
    "soft-threshold",
    "sigmoid-gate",
    "hard-concrete",
)


@functools.cache
def digits(count: int = 24, size: int = 16) -> list[Batch]:
    """Batches of real digits, [size, 1, 14, 14], and their labels."""
    data = load_data("mnist5k").train.epoch(size, train=True, seed=0, epoch=0)
    return [
        (F.avg_pool2d(inputs, 2), labels)
        for inputs, labels in itertools.islice(data, count)
    ]


def digit_net(seed: int = 0) -> nn.Sequential:
    """Convolutions and linear layers, with and without a bias; 14x14 inputs, 10 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def applied(
    storage: str,
    method: str = "signin",
    *,
    net: Callable[[], nn.Module] = digit_net,
    sparsity: float = SPARSITY,
    **axes: Any,
) -> nn.Module:
    """A net that is ready to train, in this storage."""
    return sparsify_fx.apply(
        net(),
        method,
        sparsity=sparsity,
        batches=digits()[:2],
        loss_fn=F.cross_entropy,
        storage=storage,
        **axes,
    )


def storages(model: nn.Module) -> set[str]:
    """The storages of the weights of a model."""
    found = programs(model).values()
    return {STORAGES[program.places() is not None] for program in found}


def program_at(model: nn.Module, name: str) -> WeightProgram:
    return programs(model)[name]


def seen(model: nn.Module) -> dict[str, Tensor]:
    """The weights that the layers see in evaluation, and the masks."""
    found = programs(model)
    weights = {name: program.effective() for name, program in found.items()}
    masks = {f"{n} mask": m.clone() for n, m in current_masks(found).items()}
    return weights | masks


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(parameters: Any) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3)


@dataclass
class Trained:
    """What a training leaves."""

    model: nn.Module
    optimizer: Any
    losses: list[float] = field(default_factory=list)


def train(
    model: nn.Module,
    optimizer: Any,
    steps: int = 200,
    scheduler: sparsify_fx.Scheduler | None = None,
    clip: float | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Trained:
    """Train on digits; with a Scheduler to the end of its schedule, at most `steps` steps."""
    result = Trained(model, optimizer)
    for inputs, labels in itertools.islice(itertools.cycle(digits()), steps):
        if scheduler is not None and scheduler.finished:
            break
        optimizer.zero_grad()
        outputs = (forward or model)(inputs)
        loss = F.cross_entropy(outputs, labels)
        if scheduler is not None:
            right = outputs.argmax(1) == labels
            scheduler.observe(accuracy=float(right.float().mean()))
            loss = loss + scheduler.penalty()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        result.losses.append(float(loss.detach()))
    return result


def scheduled(
    model: nn.Module, optimizer: Any, epochs: int = 4, **options: Any
) -> sparsify_fx.Scheduler:
    """A Scheduler of five steps an epoch."""
    given = {"batches": digits()[:2], "loss_fn": F.cross_entropy}
    return sparsify_fx.Scheduler(
        model, optimizer, epochs=epochs, steps_per_epoch=5, **given, **options
    )


def check_alike(
    one: Sequence[float], other: Sequence[float], relative: float = 1e-6
) -> None:
    """Losses of one training and of another."""
    assert len(one) == len(other) > 0
    worst = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
    assert worst <= relative, f"losses differ by {worst:.1e} of their size"


def check_same_masks(one: nn.Module, other: nn.Module) -> None:
    a, b = (current_masks(programs(model)) for model in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def check_twins(full: Trained, living: Trained, relative: float = 1e-6) -> None:
    """Masks bit-equal, losses equal but for rounding, and each in its own storage."""
    assert storages(full.model) == {"full"}
    assert storages(living.model) == {"living"}
    check_same_masks(full.model, living.model)
    check_alike(full.losses, living.losses, relative)


def twins(**options: Any) -> Iterator[tuple[str, nn.Module]]:
    """Each storage with the same net in it."""
    for storage in STORAGES:
        yield storage, applied(storage, **options)


def forked(model: nn.Module, storage: str) -> nn.Module:
    """A copy of a model in this storage."""
    copied = copy.deepcopy(model)
    (StoreLiving() if storage == "living" else StoreFull())(copied)
    return copied
