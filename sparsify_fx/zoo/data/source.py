"""What a data set is to the trainer: batches of an epoch, decided by (seed, epoch) alone."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.augment import Augment


@dataclass(frozen=True)
class Facts:
    """Size and meaning of a data set; images are square, `image_size` pixels a side."""

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    train_size: int
    test_size: int
    class_names: tuple[str, ...] = ()


class Source(abc.ABC):
    """A training and a test set of images.

    Attributes:
        facts: name, sizes, classes.
    """

    facts: Facts

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.facts.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.facts.in_channels

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return self.facts.image_size

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full training batches in an epoch; the rest is dropped, so that every batch has the same shape.

        Raises DataError when there is not one full batch.
        """
        steps = self.facts.train_size // batch_size
        if steps == 0:
            raise DataError(
                f"{self.facts.name} has {self.facts.train_size} training images, fewer than batch_size={batch_size}"
            )
        return steps

    @abc.abstractmethod
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
        """Batches (x float32 [N, C, H, W] normalized, y int64 [N]) on the device.

        Training batches are shuffled and augmented by (seed, epoch) alone, and all full; test batches come in order.
        The first `start` batches are left out, without being made.
        """
