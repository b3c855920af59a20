"""From scores and a budget to masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_fx.criteria import PruningContext
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import nonzeros, top_mask
from sparsify_fx.recipe import ResolvedAxes


def choose_masks(
    axes: ResolvedAxes, context: PruningContext, kept: int, alive: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks that keep exactly `kept` weights: scored by the criterion, divided by the allocation, ties by index.

    Args:
        context: model and effective weights.
        kept: the budget over all layers.
        alive: current masks; what is pruned stays pruned. None lets every weight compete.

    Raises SparsityError when scores are missing, misshapen or NaN, or the budget does not fit.
    """
    scores = dict(axes.criterion.scores(context))
    for name, weight in context.weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            raise SparsityError(f"{axes.criterion.name} gave no score of shape {tuple(weight.shape)} for {name}")
        if torch.isnan(scores[name]).any():
            raise SparsityError(f"{axes.criterion.name} gave NaN for {name}: the model diverged; nothing was pruned")
    scores = {name: scores[name].detach() for name in context.weights}
    capacity = {name: score.numel() for name, score in scores.items()}
    if alive is not None:
        scores = {name: score.masked_fill(alive[name] == 0, -torch.inf) for name, score in scores.items()}
        capacity = {name: int(mask.sum(dtype=torch.int64)) for name, mask in alive.items()}
    counts = axes.allocation.counts(scores, capacity, kept)
    masks = {name: top_mask(score, counts[name]) for name, score in scores.items()}
    if nonzeros(masks) != kept:
        raise SparsityError(f"{axes.allocation} kept {nonzeros(masks)} weights, the budget is {kept}")
    return masks
