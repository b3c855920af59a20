"""DistributedDataParallel around vectors: whether there is one, since it takes lengths as they are when it wraps."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel


def data_parallel_holds(tensors: Iterable[Tensor]) -> bool:
    """Whether a DistributedDataParallel of this process averages the gradients of any of these parameters.

    Its buckets have the sizes that the parameters had when it wrapped them. It leaves no mark on what it wraps, so all
    objects of the process are looked through: some tenths of a second, for rare moments.

    >>> data_parallel_holds([Tensor([1.0])])
    False
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    wanted = {id(tensor) for tensor in tensors}
    if not _wrapped() & wanted:
        return False
    # A wrapper that nobody holds any more may wait to be collected.
    gc.collect()
    return bool(_wrapped() & wanted)


def _wrapped() -> set[int]:
    found: set[int] = set()
    for thing in gc.get_objects():
        # By its type: some objects make up their class, and import what they stand for when they are asked.
        if issubclass(type(thing), DistributedDataParallel):
            found.update(map(id, thing.parameters()))
    return found
