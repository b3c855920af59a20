"""All of MNIST, downloaded by torchvision.

Source: [LeCun 1998].
"""

from __future__ import annotations

import logging
from typing import Any

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, tensor_data
from sparsify_fx.zoo.data.load import DATASETS, Kind, Request
from sparsify_fx.zoo.data.types import Data

_LOG = logging.getLogger(__name__)


def load(request: Request) -> Data:
    """60,000 training and 10,000 test digits, 28x28x1; DataError when they are not there and cannot be downloaded."""
    train, test = (_split(_opened(request, train=train)) for train in (True, False))
    names = tuple(str(digit) for digit in range(10))
    return tensor_data(request, train, test, 10, names)


def _opened(request: Request, *, train: bool) -> Any:
    """torchvision's data set, downloaded if it is not there and the request allows it."""
    from torchvision.datasets import MNIST

    folder = request.root.expanduser().absolute()
    try:
        if not request.download:
            return MNIST(folder, train=train)
        folder.mkdir(parents=True, exist_ok=True)
        _LOG.info("reading MNIST in %s; downloaded if it is not there", folder)
        return MNIST(folder, train=train, download=True)
    # RuntimeError: torchvision's for files that are missing, OSError of the network, the others of files cut off.
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        if not request.download:
            raise DataError(
                f"{request.spec} is not in {folder}; train with it, which downloads it"
            ) from error
        raise DataError(
            f"{request.spec} could not be downloaded to {folder} ({error}); put its four files, unpacked, into "
            f"{folder / 'MNIST' / 'raw'}, or use mnist5k, which needs no download"
        ) from error


def _split(digits: Any) -> Split:
    return Split(digits.data[:, None].contiguous(), digits.targets.long())


DATASETS.add("mnist", Kind(load, task=(10, 1, 28)))
