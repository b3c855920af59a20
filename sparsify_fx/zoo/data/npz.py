"""Images and labels in NumPy's .npz files: `images` uint8 NHWC (or NHW), `labels` whole numbers, maybe `classes`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, split_every_fifth, tensor_data
from sparsify_fx.zoo.data.load import DATASETS, Kind, Request
from sparsify_fx.zoo.data.types import Data

Arrays = dict[str, npt.NDArray[np.generic]]

_LAYOUT = "`images` uint8 [N, H, W, C] or [N, H, W], `labels` whole numbers [N] and, if you like, `classes` names [K]"


def load(request: Request) -> Data:
    """The arrays of a folder with train.npz and test.npz, or of one file, of which every fifth image of each class
    becomes the test set. DataError for anything that does not fit; pickled arrays are never loaded.
    """
    path = request.path
    if path.is_dir():
        (train, names), (test, test_names) = (
            _read(path / f"{part}.npz") for part in ("train", "test")
        )
        if names and test_names and names != test_names:
            raise DataError(
                f"{path}: train.npz and test.npz list different `classes`; write the same into both"
            )
    else:
        everything, names = _read(path)
        # A file alone has no test set; one that is drawn at random would need a seed that all users agree on.
        train_indices, test_indices = split_every_fifth(everything.labels)
        if len(test_indices) == 0:
            raise DataError(
                f"{path}: no class has five images, so none is left for the test; give train.npz and test.npz"
            )
        train, test = everything[train_indices], everything[test_indices]
    _check_same_shape(path, train, test)
    return tensor_data(
        request, train, test, _count_classes(path, train, test, names), names
    )


def _read(path: Path) -> tuple[Split, tuple[str, ...]]:
    """The checked arrays of one file and the names of the classes, () for none."""
    arrays = _arrays(path)
    if missing := {"images", "labels"} - set(arrays):
        raise DataError(
            f"{path} lacks {' and '.join(sorted(missing))}, it has {sorted(arrays)}; expected {_LAYOUT}"
        )
    images, labels = arrays["images"], arrays["labels"]
    # Without a last axis the images are gray, as MNIST is usually stored.
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise _misshapen(path, "images", arrays["images"])
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise _misshapen(path, "labels", labels)
    if len(labels) != len(images):
        raise DataError(
            f"{path}: {len(images)} images but {len(labels)} labels; there must be one label for each image"
        )
    # Copied into this order once: every batch of a transposed view would come in the view's order, NHWC.
    nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Split(
        torch.from_numpy(nchw), torch.from_numpy(labels.astype(np.int64))
    ), _names(path, arrays)


def _arrays(path: Path) -> Arrays:
    """Every array of the file by its name; DataError when it cannot be read without running what is pickled in it."""
    # np.load reads an array only when it is asked for, so a damaged one fails inside of `with`.
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(
                f"{path} holds a single array; expected an .npz file with {_LAYOUT}"
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    # An OSError, and told in other words: what is missing may be one of the two files of a folder.
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist; npz:PATH is one file, or a folder with train.npz and test.npz"
        ) from error
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}); expected an .npz file without pickles: {_LAYOUT}"
        ) from error


def _names(path: Path, arrays: Arrays) -> tuple[str, ...]:
    """The names of the classes, () where the file has none."""
    classes = arrays.get("classes")
    if classes is None:
        return ()
    # "U" is unicode text; text as objects (dtype "O") would have been a pickle.
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise _misshapen(path, "classes", classes)
    return tuple(str(name) for name in classes)


def _misshapen(path: Path, name: str, array: npt.NDArray[np.generic]) -> DataError:
    """The error for an array of another type or shape than expected."""
    return DataError(
        f"{path}: {name} are {array.dtype} {list(array.shape)}; expected {_LAYOUT}"
    )


def _check_same_shape(path: Path, train: Split, test: Split) -> None:
    """DataError when the two parts hold images of different sizes or channels."""
    (channels, *size), (test_channels, *test_size) = (
        list(part.images.shape[1:]) for part in (train, test)
    )
    if channels != test_channels or size != test_size:
        raise DataError(
            f"{path}: training images are {[*size, channels]} but test images {[*test_size, test_channels]} "
            "[H, W, C]; write both alike"
        )


def _count_classes(
    path: Path, train: Split, test: Split, names: tuple[str, ...]
) -> int:
    """Number of classes: of the names, else one more than the largest label. DataError for a label outside."""
    # Of both parts: a class that happens to be in the test alone is one of the task all the same.
    labels = torch.cat([train.labels, test.labels])
    lowest, highest = int(labels.min()), int(labels.max())
    count = len(names) or highest + 1
    if lowest < 0 or highest >= count:
        raise DataError(
            f"{path}: labels run from {lowest} to {highest}; expected 0 to {count - 1}"
        )
    return count


DATASETS.add("npz", Kind(load, "PATH"))
