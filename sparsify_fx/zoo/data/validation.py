"""A part of the training images kept aside, so that nothing is chosen by the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.batching import generator_for
from sparsify_fx.zoo.data.types import Data, Part


@runtime_checkable
class Divisible(Protocol):
    """A part that can be divided."""

    def class_labels(self) -> Tensor:
        """The labels, int64 [N]."""

    def subset(self, indices: Tensor) -> Part:
        """The images at `indices` alone, in that order."""


def with_validation(data: Data, share: float, seed: int) -> Data:
    """The same data with a share in (0, 1) of the training images as `Data.validation`, chosen by the seed.

    Of every class the same share, rounded. Mean and deviation stay those of all training images, and so does the
    digest. Raises DataError where no class has enough images, or nothing would be left to train on.
    """
    part = data.train
    if not isinstance(part, Divisible):
        raise DataError(
            f"validation={share:g}: {data.name} cannot be divided; leave validation out, or give its training part "
            "`class_labels` and `subset`"
        )
    train, validation = split(part.class_labels(), share, seed)
    if len(train) == 0 or len(validation) == 0:
        raise DataError(
            f"validation={share:g} of {len(part)} training images of {data.name} leaves {len(train)} to train on and "
            f"{len(validation)} to validate; choose another share"
        )
    return replace(
        data,
        facts=replace(data.facts, train_size=len(train)),
        train=part.subset(train),
        validation=part.subset(validation),
    )


def split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(train, validation) indices, ascending.

    >>> [len(part) for part in split(torch.tensor([0] * 10 + [1] * 20), 0.1, seed=0)]
    [27, 3]
    """
    generator = generator_for(seed, 0, "validation", torch.device("cpu"))
    order = torch.randperm(len(labels), generator=generator, device="cpu")
    # A stable sort keeps the random order within each class, whose first images are then chosen.
    order = order[labels[order].sort(stable=True).indices]
    chosen = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    start = 0
    for count in labels.bincount().tolist():
        chosen[order[start : start + round(share * count)]] = True
        start += count
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
