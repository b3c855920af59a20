"""A data set by its spec, "mnist5k" or "npz:PATH", and the table of the kinds of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsify_fx.errors import DataError
from sparsify_fx.registry import Registry
from sparsify_fx.zoo.data.types import Data

LIMIT_BYTES = 2 * 2**30
"""Bytes of training images, as uint8, that are held on the device at most."""


@dataclass(frozen=True)
class Request:
    """How a data set is wanted.

    Attributes:
        spec: as the user wrote it.
        root: folder for downloads.
        image_size: pixels a side, None for the images' own size.
        device: where the batches are needed.
        limit_bytes: image folders beyond it are streamed.
        workers: processes that decode streamed images; they change no bit of the batches.
    """

    spec: str
    root: Path
    image_size: int | None
    device: torch.device
    limit_bytes: int
    workers: int

    @property
    def argument(self) -> str:
        """What follows the colon of the spec."""
        return self.spec.partition(":")[2]

    @property
    def path(self) -> Path:
        """The argument as a path that exists; DataError otherwise."""
        path = Path(self.argument).expanduser()
        if not path.exists():
            raise DataError(f"{self.spec}: {path.absolute()} does not exist; give the path of the data")
        return path


@dataclass(frozen=True)
class Kind:
    """A kind of data: its loader, and what its argument is ("PATH"), "" where it takes none."""

    load: Callable[[Request], Data]
    argument: str = ""


DATASETS = Registry[Kind]("data set")


def load_data(
    spec: str,
    *,
    root: Path = Path("data"),
    device: torch.device | str = "cpu",
    image_size: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
    workers: int = 4,
) -> Data:
    """The data set of a spec.

    Args:
        spec: `mnist5k`, `cifar10`, `cifar100`, `imagefolder:PATH` (with train and test or val) or `npz:PATH` (a file,
            or a folder with train.npz and test.npz). A relative PATH starts at the current folder.
        root: folder for downloads, made when needed.
        device: where the batches are needed; small sets are held there whole.
        image_size: pixels a side; images of another size are resized. None: as they are.
        limit_bytes: the most that training images may take as uint8; larger folders are streamed.
        workers: processes that decode streamed images; 0 for none.

    Raises UnknownNameError for an unknown kind, DataError for data that are missing or malformed.

    >>> load_data("mnist5k").image_size
    28
    """
    name, colon, argument = spec.partition(":")
    kind = DATASETS[name]
    if kind.argument and not argument:
        raise DataError(f"{spec!r} lacks its {kind.argument}; write {name}:{kind.argument}")
    if colon and not kind.argument:
        raise DataError(f"{name} takes nothing after a colon, got {argument!r}; write {name}")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size={image_size} must be a whole number of pixels >= 1")
    return kind.load(Request(spec, root, image_size, torch.device(device), limit_bytes, workers))
