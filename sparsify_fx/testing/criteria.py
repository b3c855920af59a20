"""The laws of a criterion: exact budgets, the same masks for the same seed, and a model that stays as it is."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from sparsify_fx.allocations import Global
from sparsify_fx.criteria import (
    Criterion,
    PruningContext,
    criterion_name,
    pruning_generator,
)
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.masks import nonzeros
from sparsify_fx.recipe import axis_value
from sparsify_fx.testing.small import alike, batch, ensure, loss_of, small_net


def check_criterion(criterion: str | Criterion) -> None:
    """A score of each weight's shape without NaN; the same for the same seed; the model stays as it is; exact budgets.

    >>> check_criterion("magnitude")
    """
    found: Criterion = axis_value("criterion", criterion)
    name, model = criterion_name(found), small_net()
    before = copy.deepcopy(model.state_dict())

    # 1. Budgets to the weight, of the net's 792: the ends, where a tie or a whole layer is easily one off,
    # and 400 last, whose masks the next law starts from.
    for kept in (1, 791, 400):
        first, again = (
            choose_masks(found, _context(found, model, kept)) for _ in range(2)
        )
        ensure(
            nonzeros(first) == kept,
            f"{name}: {nonzeros(first)} weights are kept of a budget of {kept}",
        )
        ensure(
            alike(first, again),
            f"{name}: the same seed gives other masks the second time",
        )

    # 2. Pruning further: a criterion that scores all weights anew must not revive one.
    later = choose_masks(found, _context(found, model, 200, first))
    ensure(
        all((later[key] <= first[key]).all() for key in first),
        f"{name}: a pruned weight comes back",
    )

    # 3. The model is as it was: statistics of batch norm move in a forward, gradients stay from a backward.
    ensure(
        alike(before, model.state_dict()),
        f"{name}: scoring changes the model; a criterion only reads",
    )
    ensure(
        all(p.grad is None for p in model.parameters()),
        f"{name}: scoring leaves gradients in the model",
    )


def _context(
    criterion: Criterion,
    model: nn.Module,
    kept: int,
    alive: dict[str, Tensor] | None = None,
) -> PruningContext:
    """What a criterion gets that chooses `kept` of the small net's weights; a fresh generator each time."""
    # Only what the criterion says it needs: one that needs more fails here and not in a user's training.
    needs = criterion.needs
    return PruningContext(
        weights={
            f"{i}.weight": model.get_parameter(f"{i}.weight").detach()
            for i in (0, 3, 7)
        },
        generator=pruning_generator(seed=3),
        kept=kept,
        allocation=Global(),
        alive=alive,
        model=model if "model" in needs else None,
        batches=[batch()] if "batches" in needs else None,
        loss_fn=loss_of if "loss_fn" in needs else None,
    )
