"""The highest scores of tensors that are spread over processes: each looks at its own shards, and counts are added up.

No score is sent. The threshold is found digit by digit: a histogram of the highest 16 bits of all scores says in which
bin it lies, one of the next 16 bits of those in this bin, and so on. Integers are added, so that every process comes to
the same threshold to the bit, and to the one that a single process would find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsify_fx.numerics import comparable
from sparsify_fx.sharding.shards import (
    part,
    place_among_shards,
    shard,
    sharded,
    summed,
)

_DIGIT = 16
# Entries that are counted at once: each becomes an index of eight bytes.
_CHUNK = 1 << 18
_FLOATS = {torch.float32: torch.int32, torch.float64: torch.int64}


def top_masks_of_shards(scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """As `sparsify_fx.masks.top_masks`, for scores of which at least one is sharded; masks lie as their scores do.

    Ties go by layer, then by flat index: the shards of a tensor are consecutive rows of it, in the order of the ranks.

    Args:
        scores: those that are plain must be the same on every process; they count once.
        kept: 0 <= kept <= number of entries.
    """
    parts = comparable([part(score, score) for score in scores.values()])
    like = next(score for score in scores.values() if sharded(score))
    keys = [_ordered(each) for each in parts]
    # A whole tensor is on every process: one of them counts it.
    mine = [
        sharded(score) or place_among_shards(like)[0] == 0 for score in scores.values()
    ]
    total = sum(score.numel() for score in scores.values())
    if kept in (0, total):
        masks = [torch.full_like(key, kept == total, dtype=torch.bool) for key in keys]
    else:
        counted = [key for key, own in zip(keys, mine, strict=True) if own]
        threshold = _kth_largest(counted, kept, like, keys[0].dtype)
        masks = [key > threshold for key in keys]
        ties = [key == threshold for key in keys]
        allowed = _ties_kept(masks, ties, mine, kept, like)
        for mask, tie, most in zip(masks, ties, allowed, strict=True):
            # cumsum numbers the ties in order, and the first ones stay.
            mask |= tie & (torch.cumsum(tie, 0) <= most)
    found = {}
    for (name, score), mask in zip(scores.items(), masks, strict=True):
        shape = part(score, score).shape
        found[name] = shard(mask.view(torch.uint8).reshape(shape), score)
    return found


def _ordered(scores: Tensor) -> Tensor:
    """Integers in the order of the scores, equal where those are."""
    if scores.dtype not in _FLOATS:
        return scores.to(torch.int64)
    # −0.0 equals 0.0, and has other bits; adding 0.0 makes it 0.0.
    bits = (scores + 0.0).view(_FLOATS[scores.dtype])
    # Of negative floats the larger bits are the smaller number.
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _kth_largest(
    keys: Sequence[Tensor], kept: int, like: Tensor, dtype: torch.dtype
) -> int:
    """The `kept`-th largest of the integers of all processes."""
    width = torch.iinfo(dtype).bits
    # The bits above the digits that are known; the highest digit is the signed one.
    prefix: int | None = None
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=_device(like))
        for key in keys:
            counts += _histogram(key, shift, prefix)
        counts = summed(counts, like)
        # From the highest digit down, the bin in which the wanted number is.
        above = counts.flip(0).cumsum(0)
        position = int((above < kept).sum())
        kept -= int(above[position - 1]) if position else 0
        digit = (1 << _DIGIT) - 1 - position
        # The first digit was moved up, to be an index.
        prefix = (
            digit - (1 << (_DIGIT - 1))
            if prefix is None
            else (prefix << _DIGIT) | digit
        )
    assert prefix is not None
    return prefix


def _histogram(key: Tensor, shift: int, prefix: int | None) -> Tensor:
    """How many of the integers with that prefix have each value of the 16 bits at `shift`."""
    found = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=key.device)
    for chunk in torch.split(key, _CHUNK):
        digits = chunk >> shift
        if prefix is None:
            digits = digits + (1 << (_DIGIT - 1))
        else:
            digits = digits[digits >> _DIGIT == prefix] & ((1 << _DIGIT) - 1)
        found += torch.bincount(digits, minlength=1 << _DIGIT)
    return found


def _ties_kept(
    above: Sequence[Tensor],
    ties: Sequence[Tensor],
    mine: Sequence[bool],
    kept: int,
    like: Tensor,
) -> list[int]:
    """How many entries at the threshold each of this process's shards keeps."""
    rank, ranks = place_among_shards(like)
    # [shard, layer]: every process fills its own row, and the sum has all of them.
    numbers = torch.zeros(2, ranks, len(ties), dtype=torch.int64, device=_device(like))
    for layer, own in enumerate(mine):
        if own:
            numbers[0, rank, layer] = above[layer].count_nonzero()
            numbers[1, rank, layer] = ties[layer].count_nonzero()
    higher, equal = summed(numbers, like).cpu()
    left = kept - int(higher.sum())
    # In the order of the entries: the shards of the first layer, then those of the second.
    order = equal.T.reshape(-1)
    before = (order.cumsum(0) - order).reshape(len(ties), ranks)
    found = []
    for layer, own in enumerate(mine):
        # A whole tensor is in the row of the first process.
        row = rank if own else 0
        found.append(max(0, left - int(before[layer, row])))
    return found


def _device(like: Tensor) -> torch.device:
    return part(like, like).device
