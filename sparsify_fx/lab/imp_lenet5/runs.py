"""How `imp-lenet5` trains: LeNet-5 on some of the digits, pruned and rewound again and again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.api import apply
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model


@dataclass(frozen=True)
class Size:
    """How large the experiment is. samples: training images; steps: of each cycle, whatever the number of images."""

    samples: tuple[int, ...] = (500, 1000, 4000)
    seeds: int = 3
    prunings: int = 20
    steps: int = 200
    batch: int = 60
    rate: float = 1.2e-3


FULL = Size(samples=(250, 500, 1000, 2000, 4000), seeds=5, prunings=20, steps=2000)


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
    size: Size, digits: Digits, seed: int
) -> tuple[list[float], list[float]]:
    """Density and test accuracy at the end of every cycle of one run, which keeps 0.8 of the weights each time."""
    # 1. The model and its scheduler. The weights come from torch's global generator.
    torch.manual_seed(seed)
    model = build_model("lenet5", num_classes=10, in_channels=1, image_size=28)
    apply(model, method="imp", sparsity=1 - 0.8**size.prunings, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=size.rate)
    scheduler = Scheduler(
        model, optimizer, epochs=1, steps_per_epoch=size.steps, learning_rate="constant"
    )

    # 2. Cycles of as many steps for every number of images: with epochs, more images would mean more
    # training, and the comparison would show both.
    order = torch.Generator().manual_seed(seed)
    densities, found = [], []
    for _ in range(scheduler.steps):
        batch = torch.randint(len(digits.images), (size.batch,), generator=order)
        loss = F.cross_entropy(model(digits.images[batch]), digits.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        # Before `step`, which prunes and rewinds: afterwards the trained weights are gone.
        if scheduler.ends_run:
            densities.append(scheduler.density())
            found.append(accuracy(model, digits))
        scheduler.step()
    return densities, found


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that are classified right."""
    return float(
        (model(digits.test_images).argmax(1) == digits.test_labels).double().mean()
    )
