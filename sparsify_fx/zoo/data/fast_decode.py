"""Image files to tensors in two thirds of the time: simplejpeg decodes, torch resizes bytes as they are.

The same parts as in `decode.py`, from the same seeds. The decoders agree to the bit, resizing by at most two of 255
levels. A JPEG whose part is at least twice as large as asked for is decoded at a half, a quarter or an eighth of its
size, within the decoder's cosine transform, which takes less time and gives other pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.decode import open_image

# RandomResizedCrop's own.
_AREA, _ASPECT = [0.08, 1.0], [3 / 4, 4 / 3]
# Of others (CMYK) each library makes its own RGB.
_COLORS = ("YCbCr", "RGB", "Gray")

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class _Opened:
    """An image of which the size is known; `pixels` decodes it, with sides of at least so many pixels, uint8 HWC."""

    height: int
    width: int
    pixels: Callable[[int, int], Any]
    scalable: bool


def centered(path: str, size: int, shorter: int) -> Tensor:
    """As `decode.centered`."""
    image = _opened(path)
    low = min(image.height, image.width)
    # Whole numbers as torchvision rounds them, of the sides and of what is cut off: half a pixel would be seen.
    tall, wide = (int(shorter * side / low) for side in (image.height, image.width))
    top, left = (round((side - size) / 2) for side in (tall, wide))
    if image.scalable and low >= 2 * shorter:
        x, y = image.width / wide, image.height / tall
        return _scaled(
            image, (left * x, top * y, (left + size) * x, (top + size) * y), size
        )
    resized = _resized(_whole(image), tall, wide)
    return resized[:, top : top + size, left : left + size].contiguous()


def randomly_cropped(path: str, size: int, *, mirror: bool, seed: int) -> Tensor:
    """As `decode.randomly_cropped`, of the same part of the image."""
    from torchvision.transforms import RandomResizedCrop

    image = _opened(path)
    # Nothing but its shape is asked for.
    shape = torch.empty(1, device="cpu").expand(1, image.height, image.width)
    # The numbers that the transforms of `decode.py` draw, in their order.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        y, x, height, width = RandomResizedCrop.get_params(shape, _AREA, _ASPECT)
        mirrored = mirror and bool(torch.rand(1, device="cpu") < 0.5)
    if image.scalable and min(height, width) >= 2 * size:
        part = _scaled(image, (x, y, x + width, y + height), size)
    else:
        part = _resized(_whole(image)[:, y : y + height, x : x + width], size, size)
    # A decoder's memory order is that of the file, HWC; batches are made of images in one order.
    return part.flip(2) if mirrored else part.contiguous()


def simplejpeg() -> ModuleType:
    """The decoder; DataError, which names the extra, where it is not installed."""
    try:
        import simplejpeg as module
    except ImportError as error:
        raise DataError(
            'decode=fast needs the package simplejpeg; run pip install "sparsify_fx[jpeg]", or set decode=pillow'
        ) from error
    found: ModuleType = module
    return found


def _opened(path: str) -> _Opened:
    """A JPEG by its header; all else, and what is damaged, as Pillow reads it, which says what is wrong."""
    decoder = simplejpeg()
    try:
        content = Path(path).read_bytes()
        height, width, colors, _ = decoder.decode_jpeg_header(content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); replace or remove the file"
        ) from error
    except ValueError:
        return _by_pillow(path)
    if colors not in _COLORS:
        return _by_pillow(path)

    def pixels(least_height: int, least_width: int) -> Any:
        try:
            # Scales between 1 and 1/2 have no fast transform.
            return decoder.decode_jpeg(
                content,
                min_height=least_height,
                min_width=least_width,
                min_factor=2,
            )
        except ValueError:
            return np.array(open_image(path))

    return _Opened(height, width, pixels, True)


def _by_pillow(path: str) -> _Opened:
    image = open_image(path)
    return _Opened(image.height, image.width, lambda *_: np.array(image), False)


def _whole(image: _Opened) -> Tensor:
    """All of the image, uint8 [3, H, W]."""
    # No least sides: nothing is left out.
    return torch.from_numpy(image.pixels(0, 0)).permute(2, 0, 1)


def _scaled(image: _Opened, box: Box, size: int) -> Tensor:
    """The part [3, size, size] at `box`, decoded no larger than it needs to be."""
    left, top, right, bottom = box
    factor = min(right - left, bottom - top) / size
    sides = (int(side / factor) + 1 for side in (image.height, image.width))
    small = Image.fromarray(image.pixels(*sides))
    # Blocks of 8 pixels became blocks of 1, 2, 3 or 4; the last one of a row may stand for fewer pixels than others.
    scale = round(8 * small.width / image.width) / 8
    # Pillow takes boxes that are no whole numbers, but none that end beyond the image by a rounding.
    right, bottom = min(right * scale, small.width), min(bottom * scale, small.height)
    place = (left * scale, top * scale, right, bottom)
    part = small.resize((size, size), Image.Resampling.BILINEAR, box=place)
    return torch.from_numpy(np.array(part)).permute(2, 0, 1).contiguous()


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    sides, batch = (height, width), image[None]
    return F.interpolate(batch, sides, mode="bilinear", antialias=True)[0]
