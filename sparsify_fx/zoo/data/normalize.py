"""Per-channel mean and standard deviation, exact, and their use on batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Images at a time: bounds the copy of a channel that counting makes.
_CHUNK = 4096


@dataclass(frozen=True)
class Normalizer:
    """(x / 255 − mean) / std per channel, x uint8.

    Attributes:
        mean, std: per channel, in units of 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Normalizer:
        """The mean and the (population) standard deviation of uint8 images [N, C, H, W].

        Computed from the counts of the 256 values, so it is exact whatever the number of threads. A channel of one
        value counts as having a standard deviation of one gray level, which keeps it finite.

        >>> Normalizer.of(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
        Normalizer(mean=(0.5,), std=(0.5,))
        """
        # Counts are whole numbers, whose sums are exact in any order; sums of pixels in float depend on the order.
        values = torch.arange(256, dtype=torch.float64, device="cpu") / 255
        counts = _histogram(images).double()
        share = counts / counts.sum(1, keepdim=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        return cls(
            tuple(mean.tolist()),
            tuple(max(math.sqrt(v), 1 / 255) for v in variance.tolist()),
        )

    def factors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(scale, shift), float32 [1, C, 1, 1], with which a batch is x · scale + shift."""
        # One multiplication and one addition a pixel instead of three; in float64 until the very end.
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device="cpu").view(1, -1, 1, 1)
            for v in (self.mean, self.std)
        )
        return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


def floats(images: Tensor) -> Tensor:
    """A copy as float32, on the same device.

    >>> floats(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([  0., 255.])
    """
    if images.device.type != "cpu":
        return images.float()
    # In NumPy's memory, which asks Linux for pages of 2 MB: a batch has thousands of small ones, each of them a fault
    # that takes as long as three passes over its pixels.
    return torch.from_numpy(np.empty(images.shape, np.float32)).copy_(images)


def _histogram(images: Tensor) -> Tensor:
    """How often each value occurs in each channel, int64 [C, 256]."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device="cpu")
    for chunk in torch.split(images, _CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += torch.bincount(
                chunk[:, channel].flatten(), minlength=256
            ).cpu()
    return counts
