"""What one of several processes reads of the data: an equal part of each training batch, every n-th test batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsify_fx.errors import DataError

if TYPE_CHECKING:
    from sparsify_fx.zoo.data.types import Part


@dataclass(frozen=True)
class Share:
    """The part of one process.

    Attributes:
        index, count: 0 ... count − 1 of `count` processes; all of them together read what one process reads.

    Raises DataError for numbers that do not fit.

    >>> [(s.start, s.stop) for s in Share(1, 2).places(range(2), 4, 10, train=True)]
    [(2, 4), (6, 8)]
    >>> [(s.start, s.stop) for s in Share(0, 2).places(range(3), 4, 10, train=False)]
    [(0, 4), (8, 10)]
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise DataError(
                f"share {self.index} of {self.count} does not exist; they count from 0"
            )

    def places(
        self, steps: range, batch_size: int, images: int, *, train: bool
    ) -> Iterator[slice]:
        """Where the batches `steps` of an epoch of `images` images lie in its order, as far as they are of it."""
        if not train:
            # Whole batches: the kernels that run may depend on the size, and with them the last bits of an output.
            for step in steps[self.index :: self.count]:
                yield slice(step * batch_size, min((step + 1) * batch_size, images))
            return
        # Consecutive images: processes in their order read a batch in its order.
        part = self.part(batch_size)
        for step in steps:
            start = step * batch_size + self.index * part
            yield slice(start, start + part)

    def part(self, batch_size: int) -> int:
        """Images of a batch that are of this share; DataError where they are no whole number.

        >>> Share(0, 4).part(64)
        16
        """
        check_divisible(batch_size, self.count, "processes")
        return batch_size // self.count


WHOLE = Share()


def check_divisible(batch_size: int, count: int, of: str) -> None:
    """DataError, with the nearest batch sizes, for a batch that cannot be divided among `count` processes."""
    if batch_size % count:
        above = batch_size + -batch_size % count
        near = {max(above - count, count), above}
        raise DataError(
            f"batch_size={batch_size}, that of all processes together, cannot be divided into {count} equal parts for "
            f"{count} {of}; set batch_size to {' or '.join(map(str, sorted(near)))}, or change their number"
        )


def shared_epoch(
    part: Part, batch_size: int, share: Share, *, train: bool, **given: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """`part.epoch(batch_size, train=train, **given)` as far as it is of this share.

    A part whose `epoch` takes no `share` makes whole batches, of which the others are dropped.
    """
    if share == WHOLE:
        return part.epoch(batch_size, train=train, **given)
    if train:
        # Told here and not when the first batch is asked for.
        share.part(batch_size)
    if "share" in inspect.signature(part.epoch).parameters:
        return part.epoch(batch_size, train=train, share=share, **given)
    return _cut(
        part.epoch(batch_size, train=train, **given), batch_size, share, train=train
    )


def _cut(
    batches: Iterator[tuple[Tensor, Tensor]],
    batch_size: int,
    share: Share,
    *,
    train: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The share of batches that are made whole."""
    for number, (images, labels) in enumerate(batches):
        if train:
            (place,) = share.places(range(1), batch_size, batch_size, train=True)
            yield images[place], labels[place]
        elif number % share.count == share.index:
            yield images, labels
