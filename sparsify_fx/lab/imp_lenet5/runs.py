"""How `imp-lenet5` trains: LeNet-5 on some of the digits, pruned and rewound again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.api import apply
from sparsify_fx.lab.imp_lenet5.protocols import (
    CODE,
    MENDED,
    OURS,
    Protocol,
    build_net,
    freeze_small,
)
from sparsify_fx.rewinds import Rewind
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.zoo.data import load_data


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    samples: training images of `OURS`, whose cycles have `steps` steps whatever their number; code_samples,
    code_prunings, code_seeds: of the protocols in `codes`, whose cycles have epochs.
    """

    samples: tuple[int, ...] = (500, 1000, 4000)
    seeds: int = 3
    prunings: int = 20
    steps: int = 200
    batch: int = 60
    codes: tuple[Protocol, ...] = (
        replace(CODE, net="lenet5", epochs=10),
        replace(MENDED, net="lenet5", epochs=10),
    )
    code_samples: tuple[int, ...] = (500, 2000)
    code_prunings: int = 20
    code_seeds: int = 2


# The code has 35 cycles of 100 epochs, and the paper 10,000 to 40,000 images of MNIST: here 4,000 digits at hand.
FULL = Size(
    samples=(250, 500, 1000, 2000, 4000),
    seeds=5,
    prunings=20,
    steps=2000,
    codes=(CODE, MENDED),
    code_samples=(1000, 4000),
    code_prunings=34,
    code_seeds=3,
)


@dataclass(frozen=True)
class Digits:
    """Images and labels, to train on and to test with."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def some(self, count: int, generator: torch.Generator) -> Digits:
        """`count` training images at random, all test images."""
        chosen = torch.randperm(len(self.images), generator=generator)[:count]
        return Digits(
            self.images[chosen], self.labels[chosen], self.test_images, self.test_labels
        )


def load_digits(name: str) -> Digits:
    """All images of a data set with one channel of 28x28 pixels; DataError where it is not to be had."""
    data = load_data(name)
    # Not as for training, which would shuffle and augment: `some` draws from the images as they are.
    batches = [list(part.epoch(500, train=False)) for part in (data.train, data.test)]
    tensors: list[Tensor] = []
    for part in batches:
        tensors += map(torch.cat, zip(*part, strict=True))
    return Digits(*tensors)


def accuracies(
    size: Size, digits: Digits, seed: int, protocol: Protocol = OURS
) -> tuple[list[float], list[float]]:
    """Density and test accuracy of every cycle of one run, which keeps 0.8 of the weights each time."""
    # 1. The model and its scheduler. The weights come from torch's global generator.
    torch.manual_seed(seed)
    model = build_net(protocol)
    prunings = size.prunings if protocol.epochs is None else size.code_prunings
    apply(
        model,
        method="imp",
        sparsity=1 - 0.8**prunings,
        allocation="uniform" if protocol.layerwise else None,
        # The rate is ours to set below: cycles after the first may have another.
        rewind=Rewind(weights="init", optimizer="init", learning_rate=None),
        seed=seed,
    )
    optimizer = torch.optim.Adam(
        model.parameters(), lr=protocol.rate, weight_decay=protocol.decay
    )
    # 2. Without epochs, cycles of as many steps for every number of images: with them, more images mean more
    # training, and the comparison shows both.
    per_epoch = math.ceil(len(digits.images) / size.batch)
    epochs, length = (
        (1, size.steps) if protocol.epochs is None else (protocol.epochs, per_epoch)
    )
    scheduler = Scheduler(
        model,
        optimizer,
        epochs=epochs,
        steps_per_epoch=length,
        learning_rate=None,
    )

    # 3. Before `step`, which prunes and rewinds at the end of a cycle: afterwards the trained weights are gone.
    order = torch.Generator().manual_seed(seed)
    densities: list[float] = []
    found: list[float] = []
    tested: list[float] = []
    for step in range(scheduler.steps):
        within = step % (epochs * length)
        if protocol.best and within % length == 0:
            tested.append(accuracy(model, digits))
        chosen = _batch(size, digits, order, protocol, within % length)
        _train(model, optimizer, digits, chosen, protocol, first=step == within)
        if scheduler.ends_run:
            densities.append(scheduler.density())
            found.append(max(tested) if protocol.best else accuracy(model, digits))
            tested = []
        scheduler.step()
    return densities, found


def _batch(
    size: Size, digits: Digits, order: torch.Generator, protocol: Protocol, index: int
) -> Tensor:
    """Which images the next step sees: at random with replacement, or a part of a new order in each epoch."""
    count = len(digits.images)
    if protocol.epochs is None:
        return torch.randint(count, (size.batch,), generator=order)
    # Drawn anew from a copy of the generator: the same order for all steps of an epoch.
    state = order.get_state()
    shuffled = torch.randperm(count, generator=order)
    if (index + 1) * size.batch < count:
        order.set_state(state)
    return shuffled[index * size.batch : (index + 1) * size.batch]


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    digits: Digits,
    batch: Tensor,
    protocol: Protocol,
    *,
    first: bool,
) -> None:
    """One optimizer step at the protocol's rate, in the first cycle at its first."""
    loss = F.cross_entropy(model(digits.images[batch]), digits.labels[batch])
    loss.backward()  # type: ignore[no-untyped-call]
    if protocol.positive_only:
        freeze_small(model)
    for group in optimizer.param_groups:
        group["lr"] = protocol.first_rate if first else protocol.rate
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that are classified right."""
    return float(
        (model(digits.test_images).argmax(1) == digits.test_labels).double().mean()
    )
