"""From scores and a budget to masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from sparsify_fx.allocations import Allocation, Chooser, Pattern
from sparsify_fx.criteria import Criterion, PruningContext, criterion_name
from sparsify_fx.criteria.ties import find_ties
from sparsify_fx.distributed.ranks import averaged_if_different, together
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import masks_of_counts, nonzeros
from sparsify_fx.programs.input_layouts import USUAL, Layouts


def choose_masks(criterion: Criterion, context: PruningContext) -> dict[str, Tensor]:
    """Masks that keep exactly `context.kept` weights: scored, divided by the allocation, ties by index.

    What is pruned in `context.alive` stays pruned. A TiesWarning tells when equal scores leave much to the order of the
    weights.

    Raises SparsityError when scores are missing, misshapen or NaN, or the budget does not fit.
    """
    scores = checked_scores(criterion, context)
    if context.alive is not None:
        scores = {
            name: _living(score, context.alive[name]) for name, score in scores.items()
        }
    masks = allocated(
        context.allocation, scores, context.alive, context.kept, context.layouts
    )
    if not isinstance(
        context.allocation, Pattern
    ):  # whose groups are small and tie by nature
        find_ties(scores, masks, context.weights).warn(criterion_name(criterion))
    return masks


def allocated(
    allocation: Allocation,
    scores: Mapping[str, Tensor],
    alive: Mapping[str, Tensor] | None,
    kept: int,
    layouts: Layouts = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Masks of exactly `kept` weights, divided by the allocation; the scores are −inf where `alive` is 0.

    A pattern sees every weight as [outputs, inputs of each, ...].
    """
    capacity = {name: score.numel() for name, score in scores.items()}
    if alive is not None:
        capacity = {name: int(mask.count_nonzero()) for name, mask in alive.items()}
    if isinstance(allocation, Pattern):
        turned = {
            name: layouts.get(name, USUAL).standard(score)
            for name, score in scores.items()
        }
        found = allocation.masks(turned, kept)
        masks = {
            name: layouts.get(name, USUAL).back(mask, tuple(scores[name].shape))
            for name, mask in found.items()
        }
    elif isinstance(allocation, Chooser):
        masks = allocation.choose(scores, capacity, kept)
    else:
        masks = masks_of_counts(scores, allocation.counts(scores, capacity, kept))
    if nonzeros(masks) != kept:
        raise SparsityError(
            f"{allocation} kept {nonzeros(masks)} weights, the budget is {kept}"
        )
    return masks


def _living(score: Tensor, alive: Tensor) -> Tensor:
    """The score where `alive` is 1, and −inf elsewhere: below every living weight, even one that scores −inf."""
    if score.is_floating_point() and score.numel() and score.amin() == -torch.inf:
        score = score.clamp_min(torch.finfo(score.dtype).min)
    return score.masked_fill(alive == 0, -torch.inf)


def checked_scores(criterion: Criterion, context: PruningContext) -> dict[str, Tensor]:
    """Scores for every weight, of its shape and without NaN, detached; torch's random states stay as they are.

    In a process group they are equal on all ranks: where a criterion read batches and did not average over the ranks
    itself, the scores are averaged. An error on one rank is raised on all.
    """
    label = criterion_name(criterion)
    with together(f"the scores of {label}"):
        with _own_randomness(context):
            scores: Mapping[str, Tensor] = criterion.scores(context)
        for name, weight in context.weights.items():
            if name not in scores or scores[name].shape != weight.shape:
                raise SparsityError(
                    f"{label} gave no score of shape {tuple(weight.shape)} for {name}"
                )
            if torch.isnan(scores[name]).any():
                raise SparsityError(
                    f"{label} gave NaN for {name}: the model diverged; nothing was pruned"
                )
        found = {name: scores[name].detach() for name in context.weights}
    return (
        averaged_if_different(f"the scores of {label}", found)
        if "batches" in criterion.needs
        else found
    )


@contextlib.contextmanager
def _own_randomness(context: PruningContext) -> Iterator[None]:
    """Dropout and shuffled loaders draw from the pruning's seed, and leave nothing behind."""
    devices = sorted(
        {weight.get_device() for weight in context.weights.values() if weight.is_cuda}
    )
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(context.generator.initial_seed())
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(
                context.generator.initial_seed()
            )
        yield
