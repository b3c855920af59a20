"""Random crops and flips of a whole batch at once, on the device of the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.batching import generator_for


@dataclass(frozen=True)
class Augment:
    """Random changes to the training images.

    Attributes:
        crop_padding: pad by so many black pixels on every side, then cut the original size out at a random place.
            0: no crop; folders that are streamed then take random resized crops (see `FolderSource`).
        flip: mirror left and right, half of the time.

    Raises DataError for a negative padding.

    >>> Augment(crop_padding=4, flip=True)
    Augment(crop_padding=4, flip=True)
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise DataError(
                f"crop_padding={self.crop_padding} must be a whole number of pixels >= 0"
            )


def crop(images: Tensor, tops: Tensor, lefts: Tensor, padding: int) -> Tensor:
    """Images [N, C, H, W] of the same size, cut at (tops, lefts) [N], 0 ... 2·padding, out of the zero-padded ones.

    >>> crop(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([2]), torch.tensor([1]), 1).tolist()
    [[[[3, 4], [0, 0]]]]
    """
    count, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = (tops[:, None] + torch.arange(height, device=images.device)).view(
        count, 1, height, 1
    )
    columns = (lefts[:, None] + torch.arange(width, device=images.device)).view(
        count, 1, 1, width
    )
    # Two gathers keep the memory order NCHW; one indexing would give NHWC and a recompile of the model.
    tall = padded.gather(2, rows.expand(count, channels, height, padded.shape[3]))
    return tall.gather(3, columns.expand(count, channels, height, width))


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Images [N, C, H, W], those with `chosen` (bool [N]) mirrored left and right.

    >>> flip(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([True, False])).flatten().tolist()
    [2, 1, 3, 4]
    """
    # Both are computed for every image; picking the chosen ones would make the CPU wait for a GPU to count them.
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True)
class Draws:
    """The random choices of one epoch, one per position in its order, made at its start.

    Attributes:
        augment: what to do.
        tops, lefts: int64 [count], 0 ... 2·crop_padding.
        mirrored: bool [count].
    """

    augment: Augment
    tops: Tensor
    lefts: Tensor
    mirrored: Tensor

    def apply(self, images: Tensor, start: int) -> Tensor:
        """Images [N, C, H, W] at the positions start ... start + N − 1, changed as drawn."""
        # By position in the epoch, so that what is drawn does not depend on the batches that it is cut into.
        here = slice(start, start + len(images))
        if self.augment.crop_padding:
            images = crop(
                images, self.tops[here], self.lefts[here], self.augment.crop_padding
            )
        return flip(images, self.mirrored[here]) if self.augment.flip else images


def draw(
    augment: Augment, count: int, *, seed: int, epoch: int, device: torch.device
) -> Draws:
    """The choices for `count` images, from a generator on `device`: the CPU and each kind of GPU have their own."""
    # Everything is drawn whether it is used or not, so that turning off flips leaves the crops as they were.
    generator = generator_for(seed, epoch, "augment", device)
    tops, lefts = torch.randint(
        0, 2 * augment.crop_padding + 1, (2, count), generator=generator, device=device
    )
    mirrored = torch.randint(0, 2, (count,), generator=generator, device=device).bool()
    return Draws(augment, tops, lefts, mirrored)
