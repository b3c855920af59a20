"""apply, merge and dense_state_dict: the way in and the way out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsify_fx.allocations import Checked, with_min_per_layer
from sparsify_fx.criteria import (
    EarlyCheck,
    PruningContext,
    check_inputs,
    criterion_name,
    pruning_generator,
    rehearse,
)
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.distributed.data_parallel import (
    ignore_masks_in_ddp,
    refuse_early_wrapping,
    refuse_sharded,
    restore_ddp,
)
from sparsify_fx.distributed.ranks import check_equal, together
from sparsify_fx.errors import LayerError
from sparsify_fx.parameterizations import Dense
from sparsify_fx.passes import Merge
from sparsify_fx.passes.prepare import assigned, prepare
from sparsify_fx.plan import Inputs, Plan
from sparsify_fx.programs.collapse import find_collapse
from sparsify_fx.programs.input_layouts import layout_of
from sparsify_fx.programs.owners import owned_tensors, program_of, programs, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.selection import Layer, Selection, is_finite, select_layers
from sparsify_fx.recipe import find_method
from sparsify_fx.scheduler.unfinished import warn_unfinished
from sparsify_fx.schedules import Budget
from sparsify_fx.schedules.updates import late_criteria

M = TypeVar("M", bound=nn.Module)


@together("apply")
def apply(
    model: M,
    method: str = "signin",
    *,
    sparsity: float = 0.9,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    include: Selection = None,
    exclude: Selection = None,
    seed: int = 0,
    min_per_layer: int | float | None = None,
    **axes: Any,
) -> M:
    """Rewrite `model` in place for sparse training and return it.

    Every weight of the supported layers (convolutions, transposed convolutions, linear, bilinear, recurrent and
    attention layers and their subclasses) becomes a weight program; biases, norms and embeddings stay as they are.
    Methods that prune at initialization prune now. Build the optimizer afterwards.

    Several calls on parts of one model (`apply(net.backbone, ...)`, `apply(net, ..., include="head")`) give each part a
    plan of its own; one Scheduler over the whole follows them all.

    Args:
        model: any `nn.Module`, or a traced `torch.fx.GraphModule`.
        method: a registered name, or a sum such as "lrr+signin"; see `sparsify-fx methods`.
        sparsity: the fraction of prunable weights that end as zeros, in [0, 1); exact to the weight. The method "dense"
            has no masks and does not use it.
        batches: (inputs, targets) pairs, for criteria that need data.
        loss_fn: loss_fn(outputs, targets) -> scalar, for criteria that need a loss.
        include: module name patterns or module types to prune; None: all supported layers. Embeddings and other
            matrices are pruned only when they are named here.
        exclude: module name patterns or module types to leave alone.
        seed: of random criteria; the same seed gives the same mask on every device.
        min_per_layer: weights that no layer falls below, a number (16) or a share of the layer (0.01).
        axes: criterion=, allocation=, parameterization=, penalty=, schedule=, rewind=, actions= replace those of the
            method: an object, a name ("uniform"), or a mapping ({"name": "cycles", "keep": 0.5}). A parameterization
            can be given by layer: {"fc": Product(beta=2.0), "*": "dense"}; see `ByLayer`.

    Raises:
        UnknownNameError: an unknown method or axis, with the nearest known name.
        SparsityError: a sparsity outside [0, 1), or one that keeps nothing.
        LayerError: no prunable weight, or one that cannot be rewritten.
        RecipeError: contradictory axes, or a criterion without its inputs.
        After an error the model is as it was.

    >>> model = apply(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), method="random", sparsity=0.75)
    >>> sum(int((layer.weight != 0).sum()) for layer in (model[0], model[2]))
    20
    """
    # 1. The method, with the axes that replace its own, and the weights that it is for.
    recipe = find_method(method, axes)
    resolved = recipe.resolved()
    resolved = replace(
        resolved, allocation=with_min_per_layer(resolved.allocation, min_per_layer)
    )
    # A shard is no whole tensor to rank; DDP, which took the parameters that factors replace, would average those.
    refuse_sharded(model)
    if resolved.parameterization != Dense():
        refuse_early_wrapping(model)
    layers = _prunable(model, include, exclude)

    # 2. Refuse what does not fit before a weight is scored, since scores may take long.
    assigned(resolved.parameterization, layers)
    total = sum(layer.weight.numel() for layer in layers.values())
    layouts = {name: layout_of(layer.places[0][0]) for name, layer in layers.items()}
    budget = Budget(total, sparsity)
    if (
        isinstance(resolved.allocation, Checked)
        and resolved.schedule.initial(budget) is not None
    ):
        sizes = {
            name: layouts[name].shape(tuple(layer.weight.shape))
            for name, layer in layers.items()
        }
        resolved.allocation.check(sizes, budget.kept)
    kept, later = resolved.schedule.initial(budget), resolved.schedule.updates(budget)
    # A method that never prunes may come without the inputs of its criterion.
    if later or (kept is not None and kept < budget.total):
        check_inputs(
            criterion_name(resolved.criterion),
            resolved.criterion.needs,
            batches,
            loss_fn,
        )
        check_inputs(recipe.name, resolved.schedule.needs, batches, loss_fn)
    # Every number of weights that the training will have: criteria with masks of their own may not have one for it.
    if isinstance(resolved.criterion, EarlyCheck):
        budgets = {update.alive(total, total) for update in later} | {
            total if kept is None else kept
        }
        shapes = {name: layer.weight.detach() for name, layer in layers.items()}
        resolved.criterion.check(shapes, sorted(budgets - {total}), resolved.allocation)

    # 3. One context for all criteria: what prunes now scores in it, and what prunes later is tried in it, so that it
    # fails before the training and not within.
    masks = None
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    now = (resolved.criterion,) if kept is not None and kept < total else ()
    late = late_criteria(resolved.criterion, later)
    context = PruningContext(
        weights=weights,
        generator=pruning_generator(seed),
        kept=total if kept is None else kept,
        allocation=resolved.allocation,
        # A copy is made only for criteria that run the model.
        model=_plain(model)
        if any("model" in rule.needs for rule in (*now, *late))
        else None,
        batches=batches,
        loss_fn=loss_fn,
        layouts=layouts,
    )
    for rule in late:
        rehearse(rule, context)

    # 4. The first masks; full ones, where nothing is pruned yet, are chosen without a criterion.
    if kept is not None:
        masks = {
            name: torch.ones_like(weight, dtype=torch.uint8)
            for name, weight in weights.items()
        }
        if now:
            masks = choose_masks(resolved.criterion, context)
            find_collapse(model, masks, batches).warn(
                f"{recipe.name} at sparsity {sparsity:g}"
            )
        # Here, and not at the first event: ranks that prune differently would train a net that none of them has.
        check_equal("masks", masks, f"in apply(method={recipe.name!r})")

    # 5. Nothing of the model has changed until here, and `prepare` takes itself back when it fails.
    plan = Plan(recipe.name, resolved, float(sparsity), seed, tuple(layers))
    progress = Progress()
    for program in prepare(model, layers, masks, resolved.parameterization).values():
        # One object for all of them: whoever counts a step counts it for the whole part.
        program.plan, program.progress = plan, progress
    # For the Scheduler, which may be built far from where the data are.
    plan.inputs[model] = Inputs(batches, loss_fn)
    ignore_masks_in_ddp(model)
    return model


def _prunable(
    model: nn.Module, include: Selection, exclude: Selection
) -> dict[str, Layer]:
    """The selected layers; LayerError for weights without values, or with NaN or Inf."""
    layers = select_layers(model, include, exclude)
    absent = [name for name, layer in layers.items() if layer.weight.is_meta]
    if absent:
        raise LayerError(
            f"{len(absent)} weights are on the meta device and have no values, for instance {absent[0]}: give them "
            "some first, by model.to_empty(...) and an initialization or by model.load_state_dict(..., assign=True)"
        )
    # torch ranks NaN and Inf above every number: they would be kept for good, in place of weights that matter.
    broken = [name for name, layer in layers.items() if not is_finite(layer)]
    if broken:
        raise LayerError(
            f"weights hold NaN or Inf: {', '.join(broken)}; initialize or reload them first"
        )
    return layers


def _plain(model: nn.Module) -> nn.Module:
    """The model itself, or a merged copy when another part of it is rewritten already: criteria see plain weights."""
    if not programs(model):
        return model
    # The model itself keeps its programs: an optimizer may hold their factors already.
    copied = copy.deepcopy(model)
    Merge()(copied)
    return copied


def merge(model: M) -> M:
    """Plain weights again, in place: original classes and keys, exact zeros where pruned; the model comes back.

    merged = θ ⊙ mask. A plain model is left alone. Tied weights stay tied. A model that does not have the sparsity yet
    that `apply` was asked for is told by an UnfinishedWarning.

    >>> model = apply(nn.Linear(4, 2), method="random", sparsity=0.5)
    >>> type(merge(model)).__name__, list(model.state_dict())
    ('Linear', ['weight', 'bias'])
    """
    warn_unfinished(model, "the model is merged")
    Merge()(model)
    restore_ddp(model)
    return model


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The merged weights and all other state under the original keys and in their order; the model is not touched.

    A model that does not have the sparsity yet that `apply` was asked for is told by an UnfinishedWarning.

    >>> model = apply(nn.Linear(4, 2), method="signin", sparsity=0.5)
    >>> list(dense_state_dict(model))
    ['weight', 'bias']
    """
    warn_unfinished(model, "the dense weights are taken")
    return effective_state_dict(model)


def effective_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """`dense_state_dict` at any time of a training."""
    left = model.state_dict()
    result: dict[str, Any] = {}
    effective: dict[int, Tensor] = {}
    # Through the tables of the modules, whose order is that of a plain state dict, and under all names of shared
    # modules.
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WeightProgram):
            continue
        # An owner keeps an entry for a computed tensor, empty, in its old place.
        for name in (*module._parameters, *module._buffers):
            key = qualified(prefix, name)
            if name in owned_tensors(module):
                program = program_of(module, name)
                # Tied weights stay one tensor, so that a saver finds the tie.
                if id(program) not in effective:
                    effective[id(program)] = program.effective()
                result[key] = effective[id(program)]
            # Buffers that are not persistent are in no state dict.
            elif key in left:
                result[key] = left[key]

    # What modules keep as extra state has no entry in their tables. That of weight programs is not the plain model's.
    computed = tuple(
        f"{prefix}."
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, WeightProgram)
    )
    others = {
        key: value
        for key, value in left.items()
        if key not in result and not key.startswith(computed)
    }
    return result | others
