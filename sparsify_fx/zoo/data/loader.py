"""Batches of items that are read from files when they are needed, by worker processes of torch's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsify_fx.zoo.data.batching import Chunks, generator_for
from sparsify_fx.zoo.data.lost_workers import from_workers

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Loading:
    """How items are fetched, which changes no bit of any batch.

    Attributes:
        workers: processes that read and decode; 0 for none. No more than there are cores.
        prefetch: batches that each worker prepares ahead.
    """

    workers: int = 4
    prefetch: int = 2


def item_batches(
    items: Dataset[Any],
    batches: Chunks,
    device: torch.device,
    loading: Loading,
    seed: int,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(x, y) of the items of each batch on the device.

    What an item is may depend on its index alone: then the batches do not depend on the workers.
    """
    workers = min(loading.workers, usable_cores())
    loader = DataLoader(
        items,
        batch_sampler=batches,
        num_workers=workers,
        # DataLoader refuses the number where nobody prefetches.
        prefetch_factor=loading.prefetch if workers else None,
        pin_memory=device.type == "cuda",
        # Without one it would draw the base seed of its workers from the global generator.
        generator=generator_for(seed, epoch, "workers", _CPU),
    )
    for x, y in from_workers(loader) if workers else loader:
        yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


class Texts(Sequence[str]):
    """Strings in two arrays, which workers share: reading a Python string writes its count of references.

    That copies its page for each worker, so that their memory grows through an epoch by the size of the whole list.

    >>> texts = Texts(["a.png", "bc.png"])
    >>> len(texts), texts[1], texts[-2]
    (2, 'bc.png', 'a.png')
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # As file systems hold names: those that are no text in any encoding come back as they were.
        encoded = [os.fsencode(text) for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """The text at an index; slices give tuples."""
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._bytes[start : int(self._ends[place])].tobytes())


def usable_cores() -> int:
    """Cores that this process may use: more workers than that are slower, and DataLoader warns."""
    # Within a container or under taskset the machine's count is too large; macOS and Windows have no such question.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
