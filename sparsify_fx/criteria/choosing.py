"""From scores and a budget to masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from sparsify_fx.allocations import Allocation, Chooser, Pattern
from sparsify_fx.criteria import (
    Criterion,
    FunctionCriterion,
    PruningContext,
    Scores,
    Update,
    Updating,
    criterion_name,
)
from sparsify_fx.criteria.ties import find_ties
from sparsify_fx.distributed.ranks import averaged_if_different, together
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import masks_of_counts, nonzeros
from sparsify_fx.programs.input_layouts import USUAL, InputLayout, Layouts
from sparsify_fx.sharding import count, matching, part, shard, whole


def choose_masks(criterion: Criterion, context: PruningContext) -> dict[str, Tensor]:
    """Masks that keep exactly `context.kept` weights: scored, divided by the allocation, ties by index.

    What is pruned in `context.alive` stays pruned. A TiesWarning tells when equal scores leave much to the order of the
    weights.

    Raises SparsityError when scores are missing, misshapen or NaN, or the budget does not fit.
    """
    return _masks(criterion, context, checked_scores(criterion, context))


def choose(
    criterion: Criterion, context: PruningContext
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """As `choose_masks`, and the weights under these masks where the criterion moves those that stay, else None."""
    if not isinstance(criterion, Updating):
        return choose_masks(criterion, context), None
    updates: list[Update | None] = []

    def scores(context: PruningContext) -> Scores:
        found, update = criterion.scored(context)
        updates.append(update)
        return found

    label = criterion_name(criterion)
    once = FunctionCriterion(label, scores, criterion.needs)
    masks = _masks(criterion, context, checked_scores(once, context))
    (update,) = updates
    if update is None:
        return masks, None
    with together(f"the update of {label}"):
        weights = update(masks)
        for name, weight in weights.items():
            if not torch.isfinite(weight).all():
                raise SparsityError(
                    f"{label} moves {name} to values that are not finite; give it more damping. Nothing was pruned"
                )
    return masks, weights


def _masks(
    criterion: Criterion, context: PruningContext, scores: dict[str, Tensor]
) -> dict[str, Tensor]:
    # What is pruned must lose against everything alive, or a criterion that scores it high (gradients do, at
    # pruned weights too) would bring it back.
    if context.alive is not None:
        scores = {
            name: _living(score, context.alive[name]) for name, score in scores.items()
        }
    masks = allocated(
        context.allocation, scores, context.alive, context.kept, context.layouts
    )
    in_groups = getattr(context.allocation, "whole_groups", False)
    # The groups of a pattern are small and tie by nature: that the order decides there tells nothing.
    if not isinstance(context.allocation, Pattern) and not in_groups:
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
        capacity = {name: count(mask) for name, mask in alive.items()}
    # 1. Patterns speak of consecutive inputs of an output. Transposed convolutions hold them elsewhere, so each
    #    weight is turned to [outputs, inputs, ...] first, and its mask is turned back.
    if isinstance(allocation, Pattern):
        turned = {
            name: _turned(score, layouts.get(name, USUAL))
            for name, score in scores.items()
        }
        found = allocation.masks(turned, kept)
        masks = {
            name: layouts.get(name, USUAL).back(mask, tuple(scores[name].shape))
            for name, mask in found.items()
        }
    # 2. A threshold over the whole model gives the masks at once; counting first would look at all scores twice.
    elif isinstance(allocation, Chooser):
        masks = allocation.choose(scores, capacity, kept)
    # 3. All others divide the budget, and each layer keeps its best.
    else:
        masks = masks_of_counts(scores, allocation.counts(scores, capacity, kept))
    # A budget that is missed by one weight would fail much later, where nobody sees why: when another rank,
    # a resumed run or `MasksOf` expects the exact number.
    # Groups that go as a whole meet it within one group.
    fewer = getattr(allocation, "whole_groups", False) and nonzeros(masks) < kept
    if nonzeros(masks) != kept and not fewer:
        raise SparsityError(
            f"{allocation} kept {nonzeros(masks)} weights, the budget is {kept}"
        )
    return masks


def _turned(score: Tensor, layout: InputLayout) -> Tensor:
    # Shards are rows. Where these are no outputs, this one weight's scores are gathered.
    return score if layout == USUAL else layout.standard(whole(score))


def _living(score: Tensor, alive: Tensor) -> Tensor:
    """The score where `alive` is 1, and −inf elsewhere: below every living weight, even one that scores −inf."""
    # A living weight that scores −inf itself would tie with the pruned ones and could lose its place to one of them.
    own, living = part(score, score), part(alive, score)
    if own.is_floating_point() and own.numel() and own.amin() == -torch.inf:
        own = own.clamp_min(torch.finfo(own.dtype).min)
    return shard(own.masked_fill(living == 0, -torch.inf), score)


def checked_scores(criterion: Criterion, context: PruningContext) -> dict[str, Tensor]:
    """Scores for every weight, of its shape and without NaN, detached; torch's random states stay as they are.

    In a process group they are equal on all ranks: where a criterion read batches and did not average over the ranks
    itself, the scores are averaged. An error on one rank is raised on all.
    """
    label = criterion_name(criterion)
    # An error on one rank is raised on all: the others would else wait for scores that never come.
    with together(f"the scores of {label}"):
        with _own_randomness(context):
            scores: Mapping[str, Tensor] = criterion.scores(context)
        for name, weight in context.weights.items():
            if name not in scores or scores[name].shape != weight.shape:
                raise SparsityError(
                    f"{label} gave no score of shape {tuple(weight.shape)} for {name}"
                )
            if torch.isnan(part(scores[name], scores[name])).any():
                raise SparsityError(
                    f"{label} gave NaN for {name}: the model diverged; nothing was pruned"
                )
        found = {
            name: matching(scores[name].detach(), weight)
            for name, weight in context.weights.items()
        }
    return (
        # Criteria that read no batches score the same weights on every rank: nothing has to be sent.
        averaged_if_different(f"the scores of {label}", found)
        if "batches" in criterion.needs
        else found
    )


@contextlib.contextmanager
def _own_randomness(context: PruningContext) -> Iterator[None]:
    """Dropout and shuffled loaders draw from the pruning's seed, and every random state is given back."""
    devices = sorted(
        {weight.get_device() for weight in context.weights.values() if weight.is_cuda}
    )
    with torch.random.fork_rng(devices):
        # The seed of the pruning and not the stream that training has come to: a resumed training would have drawn
        # other numbers until here, and would choose another mask.
        torch.default_generator.manual_seed(context.generator.initial_seed())
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(
                context.generator.initial_seed()
            )
        yield
