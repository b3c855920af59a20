"""Masks with exact budgets: how many weights to keep, and which, ties broken by index."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsify_fx.errors import SparsityError
from sparsify_fx.numerics import comparable, kth_largest
from sparsify_fx.sharding import count, sharded, top_masks_of_shards


def kept_count(total: int, sparsity: float) -> int:
    """Number of weights that stay: round((1 − sparsity) · total), halves up.

    Raises SparsityError when sparsity is outside [0, 1), or when nothing would stay.

    >>> kept_count(1000, 0.9)
    100
    """
    if (
        isinstance(sparsity, bool)
        or not isinstance(sparsity, (int, float))
        or not 0 <= sparsity < 1
    ):
        percent = isinstance(sparsity, (int, float)) and 1 < sparsity < 100
        hint = f"; for {sparsity} per cent write {sparsity / 100:g}" if percent else ""
        raise SparsityError(
            f"sparsity={sparsity!r} must be a fraction in [0, 1), the share of zeros{hint}"
        )
    # `round` takes halves to the even number: half of 1 and of 3 weights would be 0 and 2.
    kept = math.floor((1 - sparsity) * total + 0.5)
    if kept < 1:
        raise SparsityError(
            f"sparsity={sparsity!r} keeps 0 of {total} prunable weights; at most {1 - 1 / total:.6g}"
        )
    return kept


def top_mask(scores: Tensor, kept: int) -> Tensor:
    """uint8 mask of the `kept` highest scores; among equal scores the lower flat index stays.

    Args:
        scores: any shape, floating; −inf marks entries that stay pruned unless the budget needs them.
        kept: 0 <= kept <= scores.numel().

    Raises SparsityError on NaN scores or a budget that does not fit.

    >>> top_mask(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([0, 1, 1, 0], dtype=torch.uint8)
    """
    return top_masks({"": scores}, kept)[""]


def top_masks(scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    """uint8 masks of the `kept` highest scores of all layers together; ties by layer order, then flat index.

    Args:
        scores: whole, or sharded over processes, which then all must call this; masks lie as their scores do.

    Raises SparsityError on NaN scores or a budget that does not fit.

    >>> top_masks({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([3.0, 2.0])}, 2)
    {'a': tensor([0, 1], dtype=torch.uint8), 'b': tensor([1, 0], dtype=torch.uint8)}
    """
    total = sum(score.numel() for score in scores.values())
    if not 0 <= kept <= total:
        raise SparsityError(f"cannot keep {kept} of {total} weights")
    if any(sharded(score) for score in scores.values()):
        return top_masks_of_shards(scores, kept)
    parts = comparable(list(scores.values()))
    # No threshold exists for none and is not needed for all.
    if kept in (0, total):
        flat = [
            torch.full_like(part, kept == total, dtype=torch.bool) for part in parts
        ]
    else:
        flat = _reaching(parts, kth_largest(parts, kept), kept)
    return {
        name: mask.view(torch.uint8).reshape(score.shape)
        for (name, score), mask in zip(scores.items(), flat, strict=True)
    }


def _reaching(parts: Sequence[Tensor], threshold: float, kept: int) -> list[Tensor]:
    """bool masks of the entries that reach the `kept`-th largest; of those equal to it, the last ones do not count."""
    # Everything that reaches the threshold; entries equal to it may be too many.
    masks = [part >= threshold for part in parts]
    surplus = sum(int(mask.count_nonzero()) for mask in masks) - kept
    # Taken away from the end: among equal scores the earlier layer and the lower index stay.
    for i in reversed(range(len(parts))):
        if surplus == 0:
            break
        ties = parts[i] == threshold
        count = int(ties.count_nonzero())
        masks[i] = parts[i] > threshold
        # cumsum numbers the ties of this layer in order, and the first ones stay.
        if count > surplus:
            masks[i] |= ties & (torch.cumsum(ties, 0) <= count - surplus)
        surplus -= min(count, surplus)
    return masks


def masks_of_counts(
    scores: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Tensor]:
    """The mask of each layer: its `counts[name]` highest scores."""
    return {name: top_mask(score, counts[name]) for name, score in scores.items()}


def nonzeros(masks: Mapping[str, Tensor]) -> int:
    """Number of kept weights over all masks."""
    return sum(count(mask) for mask in masks.values())
