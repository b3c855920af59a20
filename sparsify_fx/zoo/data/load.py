"""A data set by its spec, "mnist5k" or "npz:PATH", and the table of the kinds of data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsify_fx.errors import DataError, unknown
from sparsify_fx.plugins import if_a_module, load_plugins, names_module
from sparsify_fx.registry import Registry
from sparsify_fx.zoo.data.loader import Loading
from sparsify_fx.zoo.data.types import Data

_LOG = logging.getLogger(__name__)

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
        loading: workers that decode streamed images, and how far ahead.
        download: whether what is not there may be downloaded.
        decode: the decoder of image files, see `DECODERS`.
    """

    spec: str
    root: Path
    image_size: int | None
    device: torch.device
    limit_bytes: int
    loading: Loading
    download: bool = True
    decode: str = "pillow"

    @property
    def argument(self) -> str:
        """What follows the colon of the spec."""
        return self.spec.partition(":")[2]

    @property
    def path(self) -> Path:
        """The argument as a path that exists; DataError otherwise."""
        path = Path(self.argument).expanduser()
        try:
            there = path.exists()
        # A name that no file can have, such as one with a null byte or of thousands of letters.
        except (OSError, ValueError):
            there = False
        if not there:
            raise DataError(
                f"{self.spec}: {path.absolute()} does not exist; give the path of the data"
            )
        return path


@dataclass(frozen=True)
class Kind:
    """A kind of data: its loader, and what its argument is ("PATH"), "" where it takes none.

    `optional`: whether it may be left out.
    `digest` gives `Data.digest` alone, for a kind that takes long to load. `task`: classes, channels and pixels a side,
    of a kind that always has the same.
    """

    load: Callable[[Request], Data]
    argument: str = ""
    digest: Callable[[Request], str] | None = None
    task: tuple[int, int, int] | None = None
    optional: bool = False


OWN = "package.module"
"""The entry of data by import path."""

DATASETS = Registry[Kind]("data set")


def load_data(
    spec: str,
    *,
    root: Path = Path("data"),
    device: torch.device | str = "cpu",
    image_size: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
    workers: int = 4,
    prefetch: int = 2,
    download: bool = True,
    decode: str = "pillow",
) -> Data:
    """The data set of a spec.

    Args:
        spec: `mnist5k` (`mnist5k:500` for so many of its digits), `mnist`, `cifar10`, `cifar100`, `imagefolder:PATH`
            (with train and test or val, or Tiny ImageNet as published), `npz:PATH` (a file, or a folder with train.npz
            and test.npz) or the import path of a function (see `own.py`). A relative PATH starts at the current folder.
        root: folder for downloads, made when needed.
        device: where the batches are needed; small sets are held there whole.
        image_size: pixels a side; images of another size are resized. None: as they are.
        limit_bytes: the most that training images may take as uint8; larger folders are streamed.
        workers, prefetch: processes that decode streamed images, 0 for none, and batches that each prepares ahead.
        download: False: DataError for a set that would have to be downloaded.
        decode: `pillow`, or `fast` for image files whose pixels may differ by rounding; see `DECODERS`.

    Raises UnknownNameError for an unknown kind, DataError for data that are missing or malformed.

    >>> load_data("mnist5k").image_size
    28
    """
    kind = _kind(spec)
    if image_size is not None and image_size < 1:
        raise DataError(
            f"image_size={image_size} must be a whole number of pixels >= 1"
        )
    place = torch.device(device)
    _LOG.info("loading the data set %s onto %s", spec, place)
    data = kind.load(
        Request(
            spec,
            root,
            image_size,
            place,
            limit_bytes,
            Loading(workers, prefetch),
            download,
            decode,
        )
    )
    _LOG.debug("%s", data.facts)
    return data


def data_digest(spec: str, *, root: Path = Path("data")) -> str:
    """32 hex digits of what the data set of a spec holds now, the same as `load_data(spec).digest`; "" for none.

    Of pixels, labels and the number of classes; of CIFAR, the published sum of its archive; of an image folder, the
    names, sizes and content of its files (beyond 2 GiB in all: the content of 2,048 images of each part).

    Raises as `load_data` does.

    >>> data_digest("mnist5k") == load_data("mnist5k").digest
    True
    """
    # Without an image size, workers or a device: none of them may change what the digest says.
    kind = _kind(spec)
    request = Request(spec, root, None, torch.device("cpu"), LIMIT_BYTES, Loading(0))
    # A kind that has no digest of its own is quick to load.
    return kind.load(request).digest if kind.digest is None else kind.digest(request)


def _kind(spec: str) -> Kind:
    """The kind of a spec whose argument is there if and only if it takes one."""
    # A kind of data may come from an installed plugin, which registers it on import.
    load_plugins()
    name, colon, argument = spec.partition(":")
    own = name not in DATASETS and argument and names_module(name)
    if argument and not own and name not in DATASETS:
        raise if_a_module(unknown("data set", name, DATASETS))
    kind = DATASETS[OWN if own else name]
    if kind.argument and not argument and (colon or not kind.optional):
        raise DataError(
            f"{spec!r} lacks its {kind.argument}; write {name}:{kind.argument}"
        )
    if colon and not kind.argument:
        raise DataError(
            f"{name} takes nothing after a colon, got {argument!r}; write {name}"
        )
    return kind
