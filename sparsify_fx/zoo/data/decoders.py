"""Who decodes image files: the table of decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sparsify_fx.registry import Registry
from sparsify_fx.zoo.data import decode, fast_decode


class Centered(Protocol):
    """The middle of an image; see `decode.centered`."""

    def __call__(self, path: str, size: int, shorter: int) -> Tensor: ...


class RandomlyCropped(Protocol):
    """A random part of an image, by a seed; see `decode.randomly_cropped`."""

    def __call__(self, path: str, size: int, *, mirror: bool, seed: int) -> Tensor: ...


@dataclass(frozen=True)
class Decoder:
    """From a file to a part of its image, uint8 [3, size, size]; both raise DataError for a file without an image.

    Attributes:
        centered: in evaluation, and in training without augmentation.
        randomly_cropped: in training; all its randomness comes from its seed.
    """

    centered: Centered
    randomly_cropped: RandomlyCropped


DECODERS = Registry[Decoder]("decoder")
"""`pillow` decodes as torchvision's ImageFolder; `fast`, which needs the extra `jpeg`, gives the same parts, whose
pixels differ by at most two of 255 levels, of images twice as large as asked for by more; see `fast_decode.py`."""

DECODERS.add("pillow", Decoder(decode.centered, decode.randomly_cropped))
DECODERS.add("fast", Decoder(fast_decode.centered, fast_decode.randomly_cropped))
