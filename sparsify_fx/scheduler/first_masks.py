"""The masks that a model starts with, and what `apply` refuses before it scores a weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsify_fx.allocations import Checked
from sparsify_fx.criteria import (
    EarlyCheck,
    PruningContext,
    check_inputs,
    criterion_name,
    pruning_generator,
    rehearse,
)
from sparsify_fx.criteria.choosing import choose
from sparsify_fx.distributed.ranks import check_equal
from sparsify_fx.passes import Merge
from sparsify_fx.plan import Inputs, Plan
from sparsify_fx.programs.collapse import find_collapse
from sparsify_fx.programs.input_layouts import InputLayout, layout_of
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.selection import Layer
from sparsify_fx.schedules import Budget
from sparsify_fx.schedules.updates import late_criteria
from sparsify_fx.sharding import whole


def check_budget(
    plan: Plan, layers: Mapping[str, Layer], budget: Budget, inputs: Inputs
) -> None:
    """Refuse axes that cannot meet the budget in these layers, or that lack their inputs."""
    axes, total = plan.axes, budget.total
    kept = axes.schedule.initial(budget)
    if isinstance(axes.allocation, Checked) and kept is not None:
        layouts = _layouts(layers)
        sizes = {
            name: layouts[name].shape(tuple(layer.weight.shape))
            for name, layer in layers.items()
        }
        axes.allocation.check(sizes, budget.kept)

    # A method that never prunes may come without the inputs of its criterion.
    later = axes.schedule.updates(budget)
    if later or (kept is not None and kept < total):
        needs = axes.criterion.needs
        name = criterion_name(axes.criterion)
        check_inputs(name, needs, inputs.batches, inputs.loss_fn)
        check_inputs(plan.method, axes.schedule.needs, inputs.batches, inputs.loss_fn)

    # The last group of a width stays, whatever its scores will be. Budgets of other units have looked at that already.
    counted = plan.met is None or plan.met.budget == "parameters"
    if counted and getattr(axes.allocation, "whole_groups", False):
        scores = {n: whole(layer.weight.detach()).abs() for n, layer in layers.items()}
        axes.allocation.counts(
            scores, {name: s.numel() for name, s in scores.items()}, budget.kept
        )

    # Every number of weights that the training will have: criteria with masks of their own may not have one for it.
    if isinstance(axes.criterion, EarlyCheck):
        budgets = {update.alive(total, total) for update in later}
        budgets |= {total if kept is None else kept}
        shapes = {name: layer.weight.detach() for name, layer in layers.items()}
        axes.criterion.check(shapes, sorted(budgets - {total}), axes.allocation)


def first_masks(
    model: nn.Module,
    plan: Plan,
    layers: Mapping[str, Layer],
    budget: Budget,
    inputs: Inputs,
) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
    """The masks at initialization (1 keeps; None for a method without masks), and weights that move under them.

    Later criteria are tried.
    """
    axes, total = plan.axes, budget.total
    kept = axes.schedule.initial(budget)
    now = (axes.criterion,) if kept is not None and kept < total else ()
    late = late_criteria(axes.criterion, axes.schedule.updates(budget))
    needs_model = any("model" in rule.needs for rule in (*now, *late))

    # 1. One context for all criteria: what prunes now scores in it, and what prunes later is tried in it, so that it
    # fails before the training and not within.
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    context = PruningContext(
        weights=weights,
        generator=pruning_generator(plan.seed),
        kept=total if kept is None else kept,
        allocation=axes.allocation,
        model=plain_weights(model) if needs_model else None,
        batches=inputs.batches,
        loss_fn=inputs.loss_fn,
        layouts=_layouts(layers),
    )
    for rule in late:
        rehearse(rule, context)
    if kept is None:
        return None, {}

    # 2. Full masks, where nothing is pruned yet, are chosen without a criterion.
    masks = {
        name: torch.ones_like(weight, dtype=torch.uint8)
        for name, weight in weights.items()
    }
    moved = None
    if now:
        # A schedule may start from a mask of another kind than those that its prunings make.
        first = getattr(axes.schedule, "first_criterion", None) or axes.criterion
        masks, moved = choose(first, context)
        told = f"{plan.method} at sparsity {plan.sparsity:g}"
        find_collapse(model, masks, inputs.batches).warn(told)

    # 3. Here, and not at the first event: ranks that prune differently would train a net that none of them has.
    check_equal("masks", masks, f"in apply(method={plan.method!r})")
    return masks, moved or {}


def write_moved(
    programs: Mapping[str, WeightProgram], moved: Mapping[str, Tensor]
) -> None:
    """Give weights that make up for those that went their values; last, for what is written over does not come back."""
    for name, theta in moved.items():
        mask = programs[name].current_mask()
        programs[name].write(theta, where=None if mask is None else mask == 1)


def _layouts(layers: Mapping[str, Layer]) -> dict[str, InputLayout]:
    """Where the inputs of an output lie in each weight, which the kind of its first owner decides."""
    return {name: layout_of(layer.places[0][0]) for name, layer in layers.items()}


def plain_weights(model: nn.Module) -> nn.Module:
    """The model itself, or a merged copy when another part of it is rewritten already: criteria see plain weights."""
    if not programs(model):
        return model
    # The model itself keeps its programs: an optimizer may hold their factors already.
    copied = copy.deepcopy(model)
    Merge()(copied)
    return copied
