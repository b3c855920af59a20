"""Which images come in which batch: seeds, orders and counts that are pure functions of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from sparsify_fx.errors import DataError
from sparsify_fx.randomness import seed_of

# Blocks that an epoch mixes: of LitData's usual 64 MB each they fit into memory beside the workers.
_OPEN = 8


def mix_seed(seed: int, epoch: int, purpose: str, index: int = 0) -> int:
    """A 64-bit seed for one use of randomness: the first 8 bytes of blake2b("purpose:seed:epoch:index"), big-endian.

    Neighboring seeds and epochs give unrelated streams, and the value is the same in every process and version of
    Python, which `hash` is not. torch's CPU generator reads only the low 32 bits of a seed: those must be mixed too.

    >>> mix_seed(0, 1, "shuffle")
    18221610862998201753
    >>> mix_seed(0, 1, "shuffle") == mix_seed(1, 0, "shuffle")
    False
    """
    return seed_of(f"{purpose}:{seed}:{epoch}:{index}")


def generator_for(
    seed: int, epoch: int, purpose: str, device: torch.device
) -> torch.Generator:
    """A generator on `device` that nothing else has drawn from."""
    return torch.Generator(device=device).manual_seed(mix_seed(seed, epoch, purpose))


def epoch_order(count: int, *, seed: int, epoch: int, train: bool) -> Tensor:
    """Indices [count] of the images in the order of an epoch, on the CPU (so that every device gets the same)."""
    if not train:
        return torch.arange(count, device="cpu")
    # The whole permutation at once: an epoch that is resumed in the middle of a training needs no earlier one.
    return torch.randperm(
        count,
        generator=generator_for(seed, epoch, "shuffle", torch.device("cpu")),
        device="cpu",
    )


def block_order(blocks: Sequence[int], *, seed: int, epoch: int) -> Tensor:
    """The order of an epoch of items that lie in blocks of these sizes, of which few are read at a time.

    The blocks are shuffled; then so are the items of each `_OPEN` blocks in a row.

    >>> sorted(block_order([2, 3], seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    """
    generator = generator_for(seed, epoch, "shuffle", torch.device("cpu"))
    spans = torch.split(torch.arange(sum(blocks), device="cpu"), list(blocks))
    shuffled = torch.randperm(len(spans), generator=generator, device="cpu").tolist()
    parts = []
    for first in range(0, len(spans), _OPEN):
        items = torch.cat([spans[at] for at in shuffled[first : first + _OPEN]])
        parts.append(
            items[torch.randperm(len(items), generator=generator, device="cpu")]
        )
    return torch.cat(parts)


def count_batches(count: int, batch_size: int, *, train: bool) -> int:
    """Batches in an epoch over `count` images: only full ones in training, all of them otherwise.

    Raises DataError for a batch size below 1, or one above `count` in training.

    >>> count_batches(10, 4, train=True), count_batches(10, 4, train=False)
    (2, 3)
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size} must be a whole number >= 1")
    if not train:
        return -(-count // batch_size)
    # An incomplete batch would be a second shape, for which torch.compile makes a second graph, and batch norms would
    # see few samples in it; a test needs neither and must count every image.
    if count < batch_size:
        raise DataError(
            f"the {count} training images do not fill one batch of {batch_size}; set batch_size to at most {count}"
        )
    return count // batch_size


class Chunks(Sampler[list[int]]):
    """The batches of an epoch as lists of indices, made one by one: the order [count] at each of `places`."""

    # A list of all batches would hold a Python number for each image: 40 MB for ImageNet, in every epoch.
    def __init__(self, order: Tensor, places: Sequence[slice]) -> None:
        self._order, self._places = order, places

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._places)

    def __iter__(self) -> Iterator[list[int]]:
        return (self._order[place].tolist() for place in self._places)
