"""Batches out of anybody's data set, with the interface of `Part`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.augment import Augment
from sparsify_fx.zoo.data.batching import (
    Chunks,
    block_order,
    count_batches,
    epoch_order,
    mix_seed,
)
from sparsify_fx.zoo.data.loader import Loading, item_batches
from sparsify_fx.zoo.data.shares import WHOLE, Share


@dataclass(frozen=True)
class _Seeded(Dataset[tuple[Tensor, int]]):
    """The items of one epoch, each a function of (seed, epoch, index) whatever its transforms draw from."""

    items: Any
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with seeded(mix_seed(self.seed, self.epoch, "item", index)):
            return as_item(self.items[index])


class DatasetSource:
    """Images and labels of a data set with a length and items (image, label); they cross to the device as they are.

    Raises DataError for a data set without a length or items.
    """

    def __init__(self, items: Any, device: torch.device, loading: Loading) -> None:
        if not hasattr(items, "__len__") or len(items) == 0:
            raise DataError(
                f"a {type(items).__name__} has no items, or does not say how many; data need a length"
            )
        self.items, self.device, self.loading = items, device, loading

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def shape(self) -> torch.Size:
        """[C, H, W] of the first image."""
        return _Seeded(self.items, 0, 0)[0][0].shape

    def class_labels(self) -> Tensor:
        """The labels, int64 [N]; DataError where the data set has no `targets`, which tell without any image."""
        if isinstance(self.items, Subset):
            inner = DatasetSource(self.items.dataset, self.device, self.loading)
            return inner.class_labels()[torch.as_tensor(self.items.indices)]
        if not hasattr(self.items, "targets"):
            raise DataError(
                f"validation needs the labels of all images: give {type(self.items).__name__} an attribute `targets`"
            )
        return torch.as_tensor(self.items.targets).long()

    def subset(self, indices: Tensor) -> DatasetSource:
        """The images at `indices` alone."""
        chosen = Subset(self.items, indices.tolist())
        return DatasetSource(chosen, self.device, self.loading)

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
        """See `Part.epoch`; DataError for an augmentation, which belongs into the data set's own transforms."""
        if train and augment is not None:
            raise DataError(
                "augment does not apply to data of your own; leave it out, and put transforms into the data set"
            )
        steps = self.batches(batch_size, train=train)
        # Items that lie in blocks, one beside the other, are read so.
        blocks = getattr(self.items, "blocks", None)
        if train and blocks is not None:
            order = block_order(blocks, seed=seed, epoch=epoch)
        else:
            order = epoch_order(len(self), seed=seed, epoch=epoch, train=train)
        places = share.places(range(start, steps), batch_size, len(self), train=train)
        # Test images are the same in every epoch, should they be drawn too.
        items = _Seeded(self.items, seed, epoch) if train else _Seeded(self.items, 0, 0)
        chunks = Chunks(order, list(places))
        return item_batches(items, chunks, self.device, self.loading, seed, epoch)


def as_item(item: Any) -> tuple[Tensor, int]:
    """(float32 [C, H, W], label) of what a data set gives; DataError for anything else."""
    try:
        image, label = item
        is_image = isinstance(image, Image.Image)
        tensor = torch.as_tensor(np.array(image) if is_image else image)
        number = int(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"an item of the data is {type(item).__name__}; expected (image, label): {error}"
        ) from error
    # Of Pillow, [H, W, C] or [H, W].
    if is_image:
        tensor = tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)
    if tensor.dim() != 3:
        raise DataError(
            f"an image of the data has the shape {list(tensor.shape)}; expected [channels, height, width]"
        )
    return (tensor / 255 if tensor.dtype == torch.uint8 else tensor.float()), number


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context torch's CPU generator, NumPy's and Python's global ones begin at a seed."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
