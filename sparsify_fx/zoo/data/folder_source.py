"""Image folders too large for the device's memory: read again, and decoded by worker processes, in every epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.augment import Augment
from sparsify_fx.zoo.data.batching import (
    count_batches,
    epoch_order,
    generator_for,
    mix_seed,
)
from sparsify_fx.zoo.data.decode import Listing, centered, randomly_cropped
from sparsify_fx.zoo.data.normalize import Normalizer
from sparsify_fx.zoo.data.shares import WHOLE, Share

_CPU = torch.device("cpu")


def eval_resize(size: int) -> int:
    """Shorter side before the middle of `size` pixels is cut out: 256 for 224, as usual on ImageNet.

    >>> eval_resize(224)
    256
    """
    return round(size * 256 / 224)


@dataclass(frozen=True)
class _Images(Dataset[tuple[Tensor, int]]):
    """The images of one epoch, uint8; `augment` None for the middle of each."""

    listing: Listing
    size: int
    augment: Augment | None
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.listing.paths[index], self.listing.labels[index]
        # No augmentation means the middle in training too: a run without it sees each image the same every time.
        if self.augment is None:
            return centered(path, self.size, eval_resize(self.size)), label
        # A seed for each image: what it looks like depends neither on the worker nor on the images before it.
        seed = mix_seed(self.seed, self.epoch, "sample", index)
        return randomly_cropped(
            path, self.size, mirror=self.augment.flip, seed=seed
        ), label


class FolderSource:
    """Batches out of image files, with the interface of `Part`.

    In training with `augment`, images are random resized crops, flipped if it says so (its crop_padding must be 0);
    else the shorter side is resized to 8/7 of the size and the middle cut out. The batches depend on (seed, epoch)
    alone, not on the number of workers. They cross to the device as bytes and are normalized there.
    """

    def __init__(
        self,
        listing: Listing,
        size: int,
        normalizer: Normalizer,
        device: torch.device,
        workers: int,
    ) -> None:
        self.listing, self.size, self.device = listing, size, device
        self.workers = min(workers, _usable_cores())
        self._scale, self._shift = normalizer.factors(device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.listing.paths)

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
        """See `Part.epoch`; DataError for an augmentation with crop_padding."""
        # Padding belongs to images of one size that are held whole; here every crop is cut out of a larger image.
        if train and augment is not None and augment.crop_padding:
            raise DataError(
                f"crop_padding={augment.crop_padding} does not apply to streamed images, which get random resized "
                "crops; set crop_padding to 0, or raise limit_bytes so that the images are held in memory"
            )
        # The order, and what is cut off of it, are those of images that are held in memory; DataLoader only decodes.
        steps = self.batches(batch_size, train=train)
        order = epoch_order(len(self), seed=seed, epoch=epoch, train=train)
        places = share.places(range(start, steps), batch_size, len(self), train=train)
        images = _Images(
            self.listing, self.size, augment if train else None, seed, epoch
        )
        loader = DataLoader(
            images,
            batch_sampler=[order[place].tolist() for place in places],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # Without one it would draw the base seed of its workers from the global generator.
            generator=generator_for(seed, epoch, "workers", _CPU),
        )
        return self._stream(loader)

    def _stream(
        self, loader: DataLoader[tuple[Tensor, int]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Floats are made on the device: as bytes the images take a quarter of the way from the workers and of the bus.
        for images, labels in loader:
            pixels = images.to(self.device, non_blocking=True).float()
            yield (
                pixels.mul_(self._scale).add_(self._shift),
                labels.to(self.device, non_blocking=True),
            )


def _usable_cores() -> int:
    """Cores that this process may use: more workers than that are slower, and DataLoader warns."""
    # Within a container or under taskset the machine's count is too large; macOS and Windows have no such question.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
