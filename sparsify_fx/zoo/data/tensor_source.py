"""A data set that lives on the device as one tensor, so that no input pipeline bounds a small model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.augment import Augment, Draws, draw
from sparsify_fx.zoo.data.batching import count_batches, epoch_order
from sparsify_fx.zoo.data.normalize import Normalizer, floats
from sparsify_fx.zoo.data.shares import WHOLE, Share


class TensorSource:
    """Batches out of images uint8 [N, C, H, W] and labels int64 [N], all kept on `device`.

    Shuffling, crops and flips are drawn for a whole epoch at its start and depend on (seed, epoch) alone: a resumed run
    gets the same batches, and no batch depends on whether those before it were read.

    Raises DataError for images and labels of another type or of different lengths.

    >>> images, labels = torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.arange(5)
    >>> source = TensorSource(images, labels, Normalizer((0.5,), (0.5,)), torch.device("cpu"))
    >>> [tuple(x.shape) for x, y in source.epoch(2, train=False)]
    [(2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalizer: Normalizer,
        device: torch.device,
    ) -> None:
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or labels.dtype != torch.int64
        ):
            raise DataError(
                f"expected uint8 images [N, C, H, W] and int64 labels [N], got {images.dtype} {list(images.shape)} "
                f"and {labels.dtype} {list(labels.shape)}"
            )
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"{len(images)} images but {len(labels)} labels; there must be one label for each image"
            )
        # uint8 on the device is a fourth of the floats, which are made of one batch at a time.
        self.images = images.to(device)
        self.labels = labels.to(device)
        self._normalizer = normalizer
        self._scale, self._shift = normalizer.factors(device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def class_labels(self) -> Tensor:
        """The labels, int64 [N], on the CPU."""
        return self.labels.cpu()

    def subset(self, indices: Tensor) -> TensorSource:
        """The images at `indices` alone, normalized as before."""
        there = indices.to(self.images.device)
        images, labels = self.images[there], self.labels[there]
        return TensorSource(images, labels, self._normalizer, self.images.device)

    def batches(self, batch_size: int, *, train: bool) -> int:
        """See `Part.batches`."""
        return count_batches(len(self), batch_size, train=train)

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
        """See `Part.epoch`."""
        device = self.images.device
        steps = self.batches(batch_size, train=train)
        order = epoch_order(len(self), seed=seed, epoch=epoch, train=train).to(device)
        draws = None
        if train and augment:
            draws = draw(augment, len(self), seed=seed, epoch=epoch, device=device)
        places = share.places(range(start, steps), batch_size, len(self), train=train)
        return self._stream(order, places, draws)

    def _stream(
        self, order: Tensor, places: Iterator[slice], draws: Draws | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Apart from `epoch`: as a generator itself it would raise its errors only when the first batch is asked for.
        for place in places:
            chosen = order[place]
            images = self.images[chosen]
            if draws is not None:
                images = draws.apply(images, place.start)
            yield (
                floats(images).mul_(self._scale).add_(self._shift),
                self.labels[chosen],
            )
