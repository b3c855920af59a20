"""CIFAR-10 and CIFAR-100, downloaded by torchvision.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, tensor_data
from sparsify_fx.zoo.data.load import DATASETS, Kind, Request
from sparsify_fx.zoo.data.types import Data

_LOG = logging.getLogger(__name__)


def load(class_name: str, request: Request) -> Data:
    """50,000 training and 10,000 test images, 32x32x3; DataError when they are not there and cannot be downloaded.

    The files are pickles; torchvision compares their MD5 sums with the published ones before it reads them.
    """
    train, test = (
        _download(class_name, request, train=train) for train in (True, False)
    )
    names = tuple(train.classes)
    return tensor_data(
        request,
        _split(train),
        _split(test),
        len(names),
        names,
        digest(class_name, request),
    )


def digest(class_name: str, request: Request) -> str:
    """The published MD5 sum of the archive, with which torchvision compares what it reads: nothing is downloaded."""
    from torchvision import datasets

    return str(getattr(datasets, class_name).tgz_md5)


def _download(class_name: str, request: Request, *, train: bool) -> Any:
    """torchvision's data set, downloaded if it is not there and the request allows it."""
    from torchvision import datasets

    # torchvision checks its files in every call, so one that is complete is opened again without a network.
    folder, cifar = request.root.expanduser().absolute(), getattr(datasets, class_name)
    try:
        if not request.download:
            return cifar(folder, train=train)
        folder.mkdir(parents=True, exist_ok=True)
        _LOG.info("reading %s in %s; downloaded if it is not there", class_name, folder)
        return cifar(folder, train=train, download=True)
    # RuntimeError is torchvision's for files that are missing or whose MD5 sum is wrong, OSError that of the network.
    except (OSError, RuntimeError, EOFError) as error:
        if not request.download:
            raise DataError(
                f"{request.spec} is not in {folder}; train with it, which downloads it"
            ) from error
        raise DataError(
            f"{request.spec} could not be downloaded to {folder} ({error}); put {cifar.filename} there, "
            "or use images of your own with imagefolder:PATH or npz:PATH"
        ) from error


def _split(dataset: Any) -> Split:
    """The arrays of torchvision's data set, whose images are [N, H, W, C]."""
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(dataset.targets, device="cpu"))


for _class, _count in (("CIFAR10", 10), ("CIFAR100", 100)):
    DATASETS.add(
        _class.lower(),
        Kind(
            partial(load, _class), digest=partial(digest, _class), task=(_count, 3, 32)
        ),
    )
