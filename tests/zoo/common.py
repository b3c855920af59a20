"""What the tests of data sets share."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify_fx.zoo.data import Data, Part, TensorSource

Batches = list[tuple[Tensor, Tensor]]


def tensors(part: Part) -> tuple[Tensor, Tensor]:
    assert isinstance(part, TensorSource)
    return part.images, part.labels


def some_digits(mnist: Data, each: int) -> tuple[Tensor, Tensor]:
    """The first `each` training digits of every class, sorted by class."""
    images, labels = tensors(mnist.train)
    chosen = torch.cat(
        [(labels == digit).nonzero().flatten()[:each] for digit in range(10)]
    )
    return images[chosen], labels[chosen]


def same(a: Batches, b: Batches) -> bool:
    pairs = zip(
        [t for batch in a for t in batch],
        [t for batch in b for t in batch],
        strict=True,
    )
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in pairs)
