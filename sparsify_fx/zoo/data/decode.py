"""Image files: listing them, and from a path to a uint8 tensor in RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sparsify_fx.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The images of a folder with one folder per class.

    Attributes:
        paths: in the order of the class names, then of the file names.
        labels: by image.
        classes: names of the folders, sorted.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """The listing of a folder; DataError when it has no classes, or a class without images."""
        from torchvision.datasets.folder import (
            IMG_EXTENSIONS,
            find_classes,
            make_dataset,
        )

        # torchvision sorts folders and files by name, so that labels and order do not depend on the file system.
        try:
            classes, index = find_classes(folder)
            samples = make_dataset(folder, index, extensions=IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise DataError(
                f"{folder} needs one folder of images for each class: {error}"
            ) from error
        paths, labels = zip(*samples, strict=True)
        return cls(paths, labels, tuple(classes))


def open_image(path: str) -> Image.Image:
    """The image in RGB; DataError when it cannot be decoded."""
    # Pillow reads the pixels as late as in `convert`, so a file with a good header fails only there.
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); replace or remove the file"
        ) from error


def shorter_side(path: str) -> int:
    """Pixels of the shorter side, from the file's header; DataError when it has none."""
    # Opening reads no more than the header, which is what makes this quick.
    try:
        with Image.open(path) as image:
            return min(image.size)
    except OSError as error:
        raise DataError(
            f"{path} is no image ({error}); replace or remove the file"
        ) from error


def whole(path: str, side: int) -> Tensor:
    """The image as it is, uint8 [3, side, side]; DataError when it has another size."""
    # Never resized: images that are all of one size are kept to the bit.
    image = open_image(path)
    if image.size != (side, side):
        raise DataError(
            f"{path} is {image.width}x{image.height} pixels, the first image {side} on its shorter side; "
            "images of different sizes, or not square, need image_size"
        )
    return _to_tensor(image)


def centered(path: str, size: int, shorter: int) -> Tensor:
    """The middle of the image, uint8 [3, size, size], after its shorter side is resized to `shorter` >= size pixels."""
    from torchvision.transforms import functional

    return _to_tensor(
        functional.center_crop(functional.resize(open_image(path), shorter), size)
    )


def randomly_cropped(path: str, size: int, *, mirror: bool, seed: int) -> Tensor:
    """A random part of the image, of 8 to 100 % of its area and an aspect of 3/4 to 4/3, as uint8 [3, size, size].

    mirror: flip it left and right half of the time. All randomness comes from `seed`.
    """
    from torchvision import transforms

    steps = [
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(0.5 if mirror else 0.0),
    ]
    # torchvision draws from torch's global CPU generator and takes no other; the fork leaves no trace in it.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _to_tensor(transforms.Compose(steps)(open_image(path)))


def _to_tensor(image: Image.Image) -> Tensor:
    from torchvision.transforms import functional

    tensor: Tensor = functional.pil_to_tensor(image)
    return tensor
