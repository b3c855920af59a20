"""From arrays of images and labels to a data set on the device: splitting, resizing, normalizing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.load import Request
from sparsify_fx.zoo.data.normalize import Normalizer
from sparsify_fx.zoo.data.source import Facts
from sparsify_fx.zoo.data.tensor_source import TensorSource
from sparsify_fx.zoo.data.types import Data

# Images at a time: bounds the copies that resizing makes.
_CHUNK = 1024


@dataclass(frozen=True)
class Split:
    """One part of a data set: images uint8 [N, C, H, W] and labels int64 [N] on the CPU."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, indices: Tensor) -> Split:
        """The images and labels at `indices`."""
        return Split(self.images[indices], self.labels[indices])


def split_every_fifth(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(train, test) indices, ascending: of each class, in the order of the data, every fifth one is for the test.

    >>> split_every_fifth(torch.tensor([0, 0, 0, 0, 0, 1, 1]))
    (tensor([0, 1, 2, 3, 5, 6]), tensor([4]))
    """
    # By class, so that a class of five has one image in the test; in the data's order, so that no seed is needed and
    # everybody's accuracy is that of the same images.
    is_test = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label in set(labels.tolist()):
        is_test[(labels == label).nonzero()[4::5]] = True
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def tensor_data(
    request: Request,
    train: Split,
    test: Split,
    num_classes: int,
    class_names: tuple[str, ...] = (),
    digest: str | None = None,
) -> Data:
    """The data set with both parts on the device, in the size asked for, normalized by the training images.

    Its digest, unless given, is that of the images before they are resized, which rounds as the machine does.

    Raises DataError for images that are not square, or that do not fit into `limit_bytes` once resized.
    """
    # 1. The digest first: antialiased resizing may round otherwise on another machine, and it is to say the same there.
    digest = digest or _digest(train, test, num_classes)

    # 2. Resize, and take mean and deviation of what is trained on: those of the test would be a leak.
    train, test = (_sized(part, request) for part in (train, test))
    normalizer = Normalizer.of(train.images)
    (count, channels, size, _), test_count = train.images.shape, len(test.images)
    return Data(
        facts=Facts(
            request.spec, num_classes, channels, size, count, test_count, class_names
        ),
        mean=normalizer.mean,
        std=normalizer.std,
        train=TensorSource(train.images, train.labels, normalizer, request.device),
        test=TensorSource(test.images, test.labels, normalizer, request.device),
        digest=digest,
    )


def _digest(train: Split, test: Split, num_classes: int) -> str:
    """32 hex digits of every pixel and label."""
    # The number of classes is in it since it may be more than the labels show, and shapes since the same bytes can be
    # images of another size.
    seen = hashlib.blake2b(str(num_classes).encode(), digest_size=16)
    for part in (train, test):
        seen.update(f" {tuple(part.images.shape)} ".encode())
        seen.update(part.images.contiguous().numpy().data)
        seen.update(part.labels.contiguous().numpy().data)
    return seen.hexdigest()


def _sized(part: Split, request: Request) -> Split:
    """The part at the image size asked for."""
    count, channels, height, width = part.images.shape
    if height != width:
        raise DataError(
            f"{request.spec}: images are {height}x{width} (height x width); crop or pad them to squares"
        )
    size = request.image_size
    if size is None or size == height:
        return part
    # Asked before anything is resized: the result, not the data on disk, is what the memory must hold.
    if (needed := count * channels * size * size) > request.limit_bytes:
        raise DataError(
            f"{request.spec}: {count} images of {size}x{size} take {needed:,} bytes, above limit_bytes="
            f"{request.limit_bytes:,}; choose a smaller image_size or raise the limit"
        )
    return Split(
        torch.cat(
            [_resized(chunk, size) for chunk in torch.split(part.images, _CHUNK)]
        ),
        part.labels,
    )


def _resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
