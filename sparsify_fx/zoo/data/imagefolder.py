"""Folders of images, one folder per class: PATH/train and PATH/test or PATH/val; also Tiny ImageNet as published."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, tensor_data
from sparsify_fx.zoo.data.decode import Listing, shorter_side, whole
from sparsify_fx.zoo.data.decoders import DECODERS, Decoder
from sparsify_fx.zoo.data.folder_source import FolderSource, eval_resize
from sparsify_fx.zoo.data.load import DATASETS, LIMIT_BYTES, Kind, Request
from sparsify_fx.zoo.data.normalize import Normalizer
from sparsify_fx.zoo.data.source import Facts
from sparsify_fx.zoo.data.tiny_imagenet import LABELS, is_tiny_imagenet, listings
from sparsify_fx.zoo.data.types import Data

_LOG = logging.getLogger(__name__)

STREAMED_SIZE = 224
"""Pixels a side of streamed images when no image_size is given: what ImageNet models expect."""

# Images from which a streamed set's mean, deviation and digest are taken: all of them take an hour on ImageNet.
_SAMPLE = 2048


def load(request: Request) -> Data:
    """The images in RGB: decoded once onto the device if they fit into limit_bytes, else streamed.

    Their size is image_size (the shorter side is resized, the middle cut out), or the images' own if all are equal
    squares; streamed ones are 224 by default. DataError for missing folders, unreadable images, unequal sizes.
    """
    train, test = _list(request.path)
    seen = _digest(request.path, train, test)
    # One image's header decides for all, since opening a million files takes minutes; `whole` refuses the first that
    # is of another size.
    side = request.image_size or shorter_side(train.paths[0])
    if len(train.paths) * 3 * side * side <= request.limit_bytes:
        decoded, decoded_test = (
            _decode(part, request.image_size, side, DECODERS[request.decode])
            for part in (train, test)
        )
        return tensor_data(
            request, decoded, decoded_test, len(train.classes), train.classes, seen
        )
    return _stream(request, train, test, request.image_size or STREAMED_SIZE, seen)


def digest(request: Request) -> str:
    """The digest of the folders as they are now, without decoding an image. DataError as for `load`."""
    return _digest(request.path, *_list(request.path))


def _digest(root: Path, *parts: Listing) -> str:
    """32 hex digits of the files' names, sizes and content: of all up to 2 GiB, else of `_SAMPLE` in each part.

    Of files and not of pixels, since decoders differ in the last bit from one version to the next.
    """
    seen = hashlib.blake2b(digest_size=16)
    _LOG.info("digest of the images in %s", root)
    try:
        sizes = [[os.path.getsize(path) for path in part.paths] for part in parts]
        # The limit of the constant, not the one asked for: a digest must not depend on how the data are loaded.
        whole_content = sum(map(sum, sizes)) <= LIMIT_BYTES
        for part, part_sizes in zip(parts, sizes, strict=True):
            step = 1 if whole_content else _step(part)
            files = zip(part.paths, part_sizes, strict=True)
            for index, (path, size) in enumerate(files):
                # Names are relative, with slashes: the folder may move, also to Windows, and stay the same data.
                name = Path(path).relative_to(root).as_posix()
                seen.update(f"{name} {size}\n".encode())
                if index % step == 0:
                    seen.update(Path(path).read_bytes())
        # Elsewhere the label is in the path.
        if is_tiny_imagenet(root):
            seen.update((root / LABELS).read_bytes())
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); replace or remove the file"
        ) from error
    return seen.hexdigest()


def _step(part: Listing) -> int:
    """Every how many-th image is in a sample."""
    return -(-len(part.paths) // _SAMPLE)


def _list(path: Path) -> tuple[Listing, Listing]:
    """The training and test images; the classes of both must agree."""
    if is_tiny_imagenet(path):
        return listings(path)
    # A folder with both is taken at its word; ImageNet has val alone, whose test labels are not public.
    test_folder = path / "test" if (path / "test").is_dir() else path / "val"
    folders = [path / "train", test_folder]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"{folder} does not exist; imagefolder:PATH needs PATH/train and PATH/test or PATH/val"
            )
    train, test = (Listing.of(folder) for folder in folders)
    # A label is the place of its folder's name, so one more folder in either would shift all that come after it.
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{folders[0]} and {folders[1]} must hold the same classes; only one has {', '.join(odd)}"
        )
    return train, test


def _decode(
    part: Listing, image_size: int | None, side: int, decoder: Decoder
) -> Split:
    """Every image of a listing in memory."""
    _LOG.info("decoding %d images of %d pixels a side", len(part.paths), side)
    images = torch.empty(
        len(part.paths), 3, side, side, dtype=torch.uint8, device="cpu"
    )

    def fill(index: int) -> None:
        path = part.paths[index]
        images[index] = (
            whole(path, side)
            if image_size is None
            else decoder.centered(path, side, side)
        )

    # Threads are enough, since Pillow decodes without Python's lock; reading what `map` gives raises a thread's error.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(part.paths))):
            pass
    return Split(images, torch.tensor(part.labels, device="cpu"))


def _stream(
    request: Request, train: Listing, test: Listing, size: int, seen: str
) -> Data:
    """The data set with images read again in every epoch."""
    _LOG.info("streaming %d images, too many for limit_bytes", len(train.paths))
    # Spread over the listing, which is sorted by class: the first ones would all be of a few classes.
    paths = train.paths[:: _step(train)]
    decoder = DECODERS[request.decode]
    sample = torch.stack(
        [decoder.centered(path, size, eval_resize(size)) for path in paths]
    )
    normalizer = Normalizer.of(sample)
    train_part, test_part = (
        FolderSource(part, size, normalizer, request.device, request.loading, decoder)
        for part in (train, test)
    )
    facts = Facts(
        request.spec,
        len(train.classes),
        3,
        size,
        len(train.paths),
        len(test.paths),
        train.classes,
    )
    return Data(facts, normalizer.mean, normalizer.std, train_part, test_part, seen)


DATASETS.add("imagefolder", Kind(load, "PATH", digest))
