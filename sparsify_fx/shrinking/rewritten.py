"""What a cut of weights means for the weight programs that compute them, their optimizers and their plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.acceleration import decelerate
from sparsify_fx.errors import LayerError
from sparsify_fx.living.followers import followed_by
from sparsify_fx.living.wrapping import data_parallel_holds
from sparsify_fx.masks import kept_count
from sparsify_fx.passes.store import StoreFull
from sparsify_fx.programs.owners import (
    owned_tensors,
    program_name,
    program_of,
    programs,
    qualified,
)
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.shrinking.record import Kept


def refuse_wrapped(model: nn.Module) -> None:
    """Raise LayerError for a model whose parameters DistributedDataParallel holds: its buckets have their sizes."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    if wrapped or data_parallel_holds(model.parameters()):
        raise LayerError(
            "DistributedDataParallel holds the parameters, and its buckets have their sizes; shrink the plain model on "
            "every process, and wrap it again"
        )


def of_programs(model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> Kept:
    """The slices that stay of the tensors of each program, by their names in the model: {name: {axis: slices}}.

    Factors, mask and state have the weight's axes; what some entries share, such as a threshold for each row, has its
    axes where it is as long.
    """
    found: Kept = {}
    for name, path, program in _named(model):
        shape = program.full_shape()
        whole = {"mask", *program.per_entry()}
        tensors = {**program._parameters, **program._buffers}
        for own, tensor in tensors.items():
            if name not in kept or tensor is None:
                continue
            axes = {
                axis: index
                for axis, index in kept[name].items()
                if own in whole or _along(tensor, axis, shape)
            }
            if axes:
                found[f"{path}.{own}"] = axes
    return found


def living(model: nn.Module) -> dict[str, Tensor]:
    """Where the weights of a rewritten model live, by their names: one of value zero, as a layer starts with, does too.

    Weights without a mask, such as those of gates, are missing: their values tell.
    """
    found = {}
    for name, _, program in _named(model):
        mask = program.current_mask()
        if mask is not None:
            found[name] = mask.detach()
    return found


def _along(tensor: Tensor, axis: int, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has a value for each slice along an axis of the weight."""
    return tensor.dim() == len(shape) and tensor.shape[axis] == shape[axis] > 1


def _named(model: nn.Module) -> Iterator[tuple[str, str, WeightProgram]]:
    """(the weight's name, the path of the program, the program), under all names of shared ones."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for tensor in owned_tensors(module):
            name = qualified(prefix, tensor)
            path = qualified(prefix, program_name(tensor))
            yield name, path, program_of(module, tensor)


def store_in_full(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Bring programs out of living storage: after a cut most entries live, and vectors have no axes to cut."""
    if all(program.places() is None for program in programs(model).values()):
        return
    decelerate(model)
    with followed_by(optimizers):
        StoreFull()(model)


def plan_totals(model: nn.Module) -> dict[int, int]:
    """How many weights each plan has, by the plan's id."""
    found: dict[int, int] = {}
    for program in programs(model).values():
        own = id(program.plan)
        found[own] = found.get(own, 0) + program.full_shape().numel()
    return found


def renew_plans(model: nn.Module, kept: Kept, totals: Mapping[int, int]) -> None:
    """Give the programs plans for the new sizes, with the same number of weights; one for those that shared one.

    Args:
        totals: `plan_totals` from before the cut.
    """
    left = plan_totals(model)
    renewed: dict[int, object] = {}
    for program in programs(model).values():
        plan = program.plan
        if plan is None:
            continue
        if id(plan) not in renewed:
            allocation = plan.axes.allocation
            after_cut = getattr(allocation, "after_cut", None)
            if after_cut is not None:
                allocation = after_cut(_own(model, plan, kept))
            stay = kept_count(totals[id(plan)], plan.sparsity)
            new = replace(
                plan,
                axes=replace(plan.axes, allocation=allocation),
                sparsity=max(0.0, 1 - stay / left[id(plan)]),
            )
            new.inputs.update(plan.inputs)
            renewed[id(plan)] = new
        program.plan = renewed[id(plan)]


def _own(model: nn.Module, plan: object, kept: Kept) -> Kept:
    """The slices by the names that the weights of a plan have in the module that `apply` was given."""
    found: Kept = {}
    mine = [n for n, p in programs(model).items() if p.plan is plan]
    for name, own in zip(mine, getattr(plan, "weights", ()), strict=False):
        if name in kept:
            found[own] = kept[name]
    return found
