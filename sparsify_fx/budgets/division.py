"""How an allocation divides any number of weights among the layers, before a weight is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import Tensor

from sparsify_fx.allocations import (
    Allocation,
    Balanced,
    Chooser,
    ErdosRenyiKernel,
    Floored,
    Pattern,
    PerLayer,
    Uniform,
)
from sparsify_fx.budgets.base import Request
from sparsify_fx.criteria import (
    EarlyCheck,
    PruningContext,
    check_inputs,
    criterion_name,
    pruning_generator,
)
from sparsify_fx.criteria.choosing import checked_scores
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import top_mask
from sparsify_fx.scheduler.first_masks import plain_weights
from sparsify_fx.schedules import Budget as Weights

Counts = dict[str, int]
# These look at shapes alone: what they divide is the same before and after the training.
_BY_SHAPE = (Uniform, Balanced, ErdosRenyiKernel)


@dataclass(frozen=True)
class Division:
    """Divides numbers of weights among layers.

    Attributes:
        sizes: weights of each layer.
        scores: those of the criterion now; the sizes of the weights where the allocation looks at shapes alone.
        by_shape: whether it does.
    """

    allocation: Allocation
    sizes: Mapping[str, int]
    scores: Mapping[str, Tensor]
    by_shape: bool

    @property
    def total(self) -> int:
        """How many weights there are to divide."""
        return sum(self.sizes.values())

    @cached_property
    def _ranked(self) -> Any:
        """Groups in the order in which they go, ranked once for all numbers; None for other allocations."""
        ranked = getattr(self.allocation, "ranked", None)
        return None if ranked is None else ranked(self.scores)

    @property
    def least(self) -> int:
        """The smallest number of weights that can be divided: with floors, the sum of those."""
        if getattr(self.allocation, "whole_groups", False):
            return int(self.allocation.least(self.scores))  # type: ignore[attr-defined]
        if isinstance(self.allocation, Floored):
            return max(1, sum(self.allocation.floors(self.sizes, self.total).values()))
        return 1

    def counts(self, kept: int) -> Counts:
        """How many weights of each layer stay."""
        if self._ranked is not None:
            return dict(self._ranked.counts(kept))
        return self.allocation.counts(self.scores, self.sizes, kept)

    def within(self, kept: int) -> int:
        """How many weights stay when at most `kept` may: fewer where whole groups stay or go."""
        if getattr(self.allocation, "whole_groups", False):
            return sum(self.counts(kept).values())
        return kept

    def masks(self, kept: int) -> dict[str, Tensor]:
        """Masks of these numbers: the highest scores of each layer."""
        if isinstance(self.allocation, Chooser) and getattr(
            self.allocation, "whole_groups", False
        ):
            return self.allocation.choose(self.scores, self.sizes, kept)
        counts = self.counts(kept)
        return {name: top_mask(s, counts[name]) for name, s in self.scores.items()}

    def fixed(self, kept: int) -> Allocation:
        """The allocation itself, or the densities that it gives now where scores decide: training changes those."""
        # Groups have no number for each layer: those of the end are chosen by the scores of the end.
        if self.by_shape or getattr(self.allocation, "whole_groups", False):
            return self.allocation
        counts = self.counts(kept)
        # A layer without weights has no density; any will do.
        return PerLayer(
            {n: 1 - counts[n] / max(1, size) for n, size in self.sizes.items()}
        )

    def most_within(self, cost: Callable[[Counts], Fraction], most: int) -> int:
        """The largest number of weights that costs at most `most`; 0 when even the smallest costs more."""
        if self._ranked is not None:
            return int(self._ranked.most_within(cost, most))
        low, high = self.least - 1, self.total
        # Costs never fall when weights are added: no layer of a larger budget has fewer, but for a weight of rounding.
        while low < high:
            middle = (low + high + 1) // 2
            if cost(self.counts(middle)) <= most:
                low = middle
            else:
                high = middle - 1
        return low if low >= self.least else 0


def division_of(request: Request, budget: str, share: float) -> Division:
    """The division of the request's allocation.

    Args:
        budget: the name of the budget, for messages.
        share: about which fraction of the weights will stay, for criteria that score by it.

    Raises MethodError for methods without masks, and for allocations and criteria that decide every layer by
    themselves.
    """
    axes, allocation = request.axes, request.axes.allocation
    if not _prunes(request):
        raise MethodError(
            f"{request.method} never prunes, so no budget ({budget}) can be met; choose a method that does"
        )
    own = isinstance(allocation, (Pattern, PerLayer)) or isinstance(
        axes.criterion, EarlyCheck
    )
    if own:
        which = (
            f"criterion {criterion_name(axes.criterion)}"
            if isinstance(axes.criterion, EarlyCheck)
            else f"allocation {allocation}"
        )
        raise MethodError(
            f"budget {budget}: the {which} decides every layer by itself, so nothing is left to choose; leave budget= "
            "out, or use allocation='global', 'uniform', 'erk' or 'balanced'"
        )
    sizes = {name: layer.weight.numel() for name, layer in request.layers.items()}
    weights = {name: layer.weight.detach() for name, layer in request.layers.items()}
    by_shape = isinstance(allocation, _BY_SHAPE)
    scores = (
        {name: weight.abs() for name, weight in weights.items()}
        if by_shape
        else _scores(request, weights, share)
    )
    return Division(allocation, sizes, scores, by_shape)


def _prunes(request: Request) -> bool:
    asked = Weights(request.total, 0.5 if request.total > 1 else 0.0)
    schedule = request.axes.schedule
    return schedule.initial(asked) is not None or bool(schedule.updates(asked))


def _scores(
    request: Request, weights: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """What the criterion gives now."""
    criterion, inputs = request.axes.criterion, request.inputs
    name = criterion_name(criterion)
    check_inputs(name, criterion.needs, inputs.batches, inputs.loss_fn)
    context = PruningContext(
        weights=weights,
        generator=pruning_generator(request.seed),
        kept=min(request.total, max(1, round(share * request.total))),
        allocation=request.axes.allocation,
        model=plain_weights(request.model) if "model" in criterion.needs else None,
        batches=inputs.batches,
        loss_fn=inputs.loss_fn,
    )
    return checked_scores(criterion, context)
