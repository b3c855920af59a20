"""A data set, and the interface of its two parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sparsify_fx.zoo.data.augment import Augment
from sparsify_fx.zoo.data.shares import WHOLE, Share
from sparsify_fx.zoo.data.source import Facts, Source


class Part(Protocol):
    """Images and labels in batches; the batches of an epoch depend on (seed, epoch) and on nothing before them."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, batch_size: int, *, train: bool) -> int:
        """Batches in an epoch; DataError when there is no full one to train on."""

    def epoch(
        self,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        epoch: int = 0,
        augment: Augment | None = None,
        start: int = 0,
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images float32 [N, C, H, W], zero mean and unit variance; labels int64 [N]) on the device.

        train=True: shuffled, augmented, without the last incomplete batch, so that every shape is the same.
        train=False: in order, all of them, never augmented; seed and epoch change nothing.
        start: so many batches are left out at the beginning, without being made; the others are the same.
        share: what one of several processes reads of them, and decodes, where images are decoded.
        DataError, before the first batch, for a batch size that does not fit.
        """


@dataclass(frozen=True, eq=False)
class Data(Source):
    """A data set, ready to train on.

    Attributes:
        facts: its name (the spec), sizes and class names; num_classes, in_channels and image_size are short cuts.
        mean, std: per channel over the training images, in units of 0 (black) to 1; the batches are (x − mean) / std.
        train, test: the two parts.
        digest: 32 hex digits of images, labels and the number of classes; "" where the loader takes none.
        validation: training images that are kept aside, see `with_validation`; None for none.
    """

    facts: Facts
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Part
    test: Part
    digest: str = ""
    validation: Part | None = None

    @property
    def name(self) -> str:
        """The spec that it was loaded from."""
        return self.facts.name

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names by label, None where the data have none."""
        return self.facts.class_names or None

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full training batches in an epoch; DataError when there is none."""
        return self.train.batches(batch_size, train=True)

    def epoch(
        self,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        epoch: int = 0,
        augment: Augment | None = None,
        start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `self.train` in training, else of `self.test`; see `Part.epoch`."""
        part = self.train if train else self.test
        return part.epoch(
            batch_size,
            train=train,
            seed=seed,
            epoch=epoch,
            augment=augment,
            start=start,
        )
