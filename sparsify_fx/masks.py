"""Masks with exact budgets: how many weights to keep, and which, ties broken by index."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_fx.errors import SparsityError


def kept_count(total: int, sparsity: float) -> int:
    """Number of weights that stay: round((1 − sparsity) · total), halves up.

    Raises SparsityError when sparsity is outside [0, 1), or when nothing would stay.

    >>> kept_count(1000, 0.9)
    100
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        percent = isinstance(sparsity, (int, float)) and 1 < sparsity < 100
        hint = f"; for {sparsity} per cent write {sparsity / 100:g}" if percent else ""
        raise SparsityError(f"sparsity={sparsity!r} must be a fraction in [0, 1), the share of zeros{hint}")
    kept = math.floor((1 - sparsity) * total + 0.5)
    if kept < 1:
        raise SparsityError(f"sparsity={sparsity!r} keeps 0 of {total} prunable weights; at most {1 - 1 / total:.6g}")
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
    flat = scores.detach().reshape(-1)
    if not 0 <= kept <= flat.numel():
        raise SparsityError(f"cannot keep {kept} of {flat.numel()} weights")
    if torch.isnan(flat).any():
        raise SparsityError("scores hold NaN: the model or its gradients diverged; nothing was pruned")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.uint8)
    threshold = torch.kthvalue(flat, flat.numel() - kept + 1).values
    above = flat > threshold
    ties = flat == threshold
    first_ties = ties & (torch.cumsum(ties, 0) <= kept - int(above.sum()))
    return (above | first_ties).to(torch.uint8).reshape(scores.shape)


def masks_of_counts(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The mask of each layer: its `counts[name]` highest scores."""
    return {name: top_mask(score, counts[name]) for name, score in scores.items()}


def nonzeros(masks: Mapping[str, Tensor]) -> int:
    """Number of kept weights over all masks."""
    return sum(int(mask.sum(dtype=torch.int64)) for mask in masks.values())
