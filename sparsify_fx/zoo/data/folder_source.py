"""Image folders too large for the device's memory: read again, and decoded by worker processes, in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.augment import Augment
from sparsify_fx.zoo.data.batching import (
    Chunks,
    count_batches,
    epoch_order,
    mix_seed,
)
from sparsify_fx.zoo.data.decode import Listing
from sparsify_fx.zoo.data.decoders import Decoder
from sparsify_fx.zoo.data.loader import Loading, Texts, item_batches
from sparsify_fx.zoo.data.normalize import Normalizer, floats
from sparsify_fx.zoo.data.shares import WHOLE, Share


def eval_resize(size: int) -> int:
    """Shorter side before the middle of `size` pixels is cut out: 256 for 224, as usual on ImageNet.

    >>> eval_resize(224)
    256
    """
    return round(size * 256 / 224)


@dataclass(frozen=True)
class _Images(Dataset[tuple[Tensor, int]]):
    """The images of one epoch, uint8; `augment` None for the middle of each."""

    paths: Texts
    labels: npt.NDArray[np.int64]
    size: int
    augment: Augment | None
    seed: int
    epoch: int
    decoder: Decoder

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.paths[index], int(self.labels[index])
        # No augmentation means the middle in training too: a run without it sees each image the same every time.
        if self.augment is None:
            return self.decoder.centered(path, self.size, eval_resize(self.size)), label
        # A seed for each image: what it looks like depends neither on the worker nor on the images before it.
        seed = mix_seed(self.seed, self.epoch, "sample", index)
        return self.decoder.randomly_cropped(
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
        loading: Loading,
        decoder: Decoder,
    ) -> None:
        self.listing, self.size, self.device = listing, size, device
        self.loading, self.decoder = loading, decoder
        self._paths = Texts(listing.paths)
        self._labels = np.array(listing.labels)
        self._normalizer = normalizer
        self._scale, self._shift = normalizer.factors(device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.listing.paths)

    def class_labels(self) -> Tensor:
        """The labels, int64 [N]."""
        return torch.from_numpy(self._labels)

    def subset(self, indices: Tensor) -> FolderSource:
        """The images at `indices` alone, normalized as before."""
        chosen, known = indices.tolist(), self.listing
        paths, labels = (
            tuple(each[index] for index in chosen)
            for each in (known.paths, known.labels)
        )
        listing = Listing(paths, labels, known.classes)
        settings = (self._normalizer, self.device, self.loading, self.decoder)
        return FolderSource(listing, self.size, *settings)

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
            self._paths,
            self._labels,
            self.size,
            augment if train else None,
            seed,
            epoch,
            self.decoder,
        )
        batches = Chunks(order, list(places))
        return self._stream(
            item_batches(images, batches, self.device, self.loading, seed, epoch)
        )

    def _stream(
        self, batches: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Floats are made on the device: as bytes the images take a quarter of the way from the workers and of the bus.
        for images, labels in batches:
            yield floats(images).mul_(self._scale).add_(self._shift), labels
