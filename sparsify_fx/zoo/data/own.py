"""Data of one's own by import path: `data: package.module:function`.

The function makes a `Data`, or two data sets as torch's DataLoader takes them, to train on and to test on: with a
length, and at each index (image, label), the image a float tensor [C, H, W] as the model shall see it, or uint8, which
becomes 0 to 1. `classes` (names) or `targets` (labels) of the first tell how many classes there are. The function gets
the `Request` if it takes an argument. Transforms may draw from torch, NumPy and `random`: all are seeded for each item.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sparsify_fx.errors import DataError, SparsifyError
from sparsify_fx.plugins import failure, imported
from sparsify_fx.zoo.data.dataset_source import DatasetSource
from sparsify_fx.zoo.data.load import DATASETS, OWN, Kind, Request
from sparsify_fx.zoo.data.source import Facts
from sparsify_fx.zoo.data.types import Data


def load(request: Request) -> Data:
    """What the function makes; DataError for anything but data, PluginError where there is no such function."""
    function = imported(request.spec, "data")
    if not callable(function):
        raise DataError(f"{request.spec} cannot be called; give a function")
    try:
        takes = inspect.signature(function).parameters
        found = function(request) if takes else function()
    except SparsifyError:
        raise
    # Code of the user's may raise anything.
    except Exception as error:
        raise DataError(
            f"{request.spec} failed with {failure(error)}; it is called without an argument, or with a Request"
        ) from error
    if isinstance(found, Data):
        return found
    usable = isinstance(found, tuple | list) and len(found) == 2
    if not usable or not all(hasattr(part, "__getitem__") for part in found):
        raise DataError(
            f"{request.spec} made {type(found).__name__}; expected Data, or (train, test) with lengths and items"
        )
    return _data(request, *found)


def _data(request: Request, train: Any, test: Any) -> Data:
    place = request.device
    source, source_of_test = (
        DatasetSource(each, place, request.loading) for each in (train, test)
    )
    shapes = {tuple(part.shape()) for part in (source, source_of_test)}
    if len(shapes) > 1 or any(height != width for _, height, width in shapes):
        raise DataError(
            f"{request.spec}: images of shapes {sorted(shapes)}; expected squares of one size [C, H, W] in both parts"
        )
    ((channels, size, _),) = shapes
    names = tuple(str(name) for name in getattr(train, "classes", ()))
    facts = Facts(
        request.spec,
        len(names) or _count(request, train),
        channels,
        size,
        len(train),
        len(test),
        names,
    )
    mean, std = (0.0,) * channels, (1.0,) * channels
    return Data(facts, mean, std, source, source_of_test)


def _count(request: Request, train: Any) -> int:
    """The number of classes by the labels."""
    if not hasattr(train, "targets"):
        raise DataError(
            f"{request.spec}: the training set has neither `classes` nor `targets`; give it one of them"
        )
    return int(torch.as_tensor(train.targets).max()) + 1


DATASETS.add(OWN, Kind(load, "FUNCTION"))
