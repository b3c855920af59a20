"""Guards: what the Scheduler checks before it trusts optimizers and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.errors import SchedulerError, TrainingError
from sparsify_fx.optimizer_states import check_supported
from sparsify_fx.programs.owners import programs, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import UNKNOWN, Progress
from sparsify_fx.schedules.updates import DrawTicket, Prune, SettleAndPrune
from sparsify_fx.sharding import lowest, part, sharded

if TYPE_CHECKING:
    from sparsify_fx.scheduler.track import Track


def check_optimizers(
    model: nn.Module, given: Optimizer | Sequence[Optimizer]
) -> tuple[Optimizer, ...]:
    """The optimizers, if every trainable factor is in exactly one of them.

    An optimizer built before `apply` holds parameters that are gone. Raises SchedulerError.
    """
    several = isinstance(given, Sequence)
    optimizers: tuple[Optimizer, ...] = tuple(given) if several else (given,)  # type: ignore[arg-type,assignment]
    odd = [
        optimizer for optimizer in optimizers if not hasattr(optimizer, "param_groups")
    ]
    if odd or not optimizers:
        got = type(odd[0]).__name__ if odd else "an empty list"
        raise SchedulerError(
            f"optimizer= takes a torch optimizer or a list of them, got {got}"
        )
    # The Scheduler writes rates and states where the steps are made, which is inside of a wrapper.
    optimizers = tuple(unwrapped(optimizer) for optimizer in optimizers)

    # By identity: an optimizer that was built before `apply` holds tensors of equal values that nothing computes with.
    trained = list(_factors(model))
    holders: dict[int, list[int]] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter in _held_by(optimizer):
            holders.setdefault(parameter, []).append(number)
    missing = [name for name, parameter in trained if id(parameter) not in holders]
    if missing:
        which = (
            "none of the optimizers trains"
            if several
            else "the optimizer does not train"
        )
        raise SchedulerError(
            f"{which} {len(missing)} rewritten weights, for instance {missing[0]}: build it after "
            "sparsify_fx.apply(model) and fully_shard, give all optimizers of the model as a list, or freeze those "
            "weights with requires_grad_(False)"
        )
    twice = [name for name, parameter in trained if len(holders[id(parameter)]) > 1]
    if twice:
        raise SchedulerError(
            f"{twice[0]} is in several optimizers; give every parameter to one of them"
        )
    check_supported(optimizers, dict(trained))
    return optimizers


def check_ties(model: nn.Module) -> None:
    """Raise SchedulerError for a weight that a program trains and another module still holds as its own.

    It happens to tied weights when `apply` saw only one of the modules: they would come apart.
    """
    plain: dict[int, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, WeightProgram):
            for tensor, parameter in module._parameters.items():
                if parameter is not None:
                    plain[id(parameter)] = qualified(name, tensor)

    # `seen` finds a tensor that two programs train: then two calls of `apply` saw one of its modules each.
    seen: dict[int, str] = {}
    for name, program in programs(model).items():
        for parameter in program.parameters():
            other = plain.get(id(parameter)) or seen.setdefault(id(parameter), name)
            if other != name:
                raise SchedulerError(
                    f"{name} and {other} were one tied weight, and `apply` was given only a part of the model that "
                    "holds one of them; call apply on a module that holds both, with include= to narrow it"
                )


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer within a wrapper without state and groups of its own, as Lightning and accelerate make."""
    inner = getattr(optimizer, "optimizer", None)
    groups, state = getattr(inner, "param_groups", None), getattr(inner, "state", None)
    # The very same groups and state, or the wrapper keeps something of its own and is the optimizer.
    if (
        inner is None
        or groups is None
        or groups is not optimizer.param_groups
        or state is not optimizer.state
    ):
        return optimizer
    return unwrapped(inner)


def _factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name for an error, parameter) of everything that the programs train."""
    for name, program in programs(model).items():
        for factor, parameter in program.named_parameters():
            if parameter.requires_grad:
                yield f"{name} ({factor})", parameter


def _held_by(optimizer: Optimizer) -> set[int]:
    """The ids of its parameters, each once: torch itself refuses one that is in two of its groups."""
    held: set[int] = set()
    for group in optimizer.param_groups:
        held.update(map(id, group["params"]))
    return held


def check_in_step(
    step: int, steps: int, progress: Sequence[Progress], no_room: str
) -> None:
    """SchedulerError when the weights are those of another step, or `no_room` says why they cannot go on at all."""
    if no_room:
        raise SchedulerError(no_room)
    # Dense weights and those of version 0.1 do not tell their step; whoever loads them has to know it.
    odd = [each.step for each in progress if each.step not in (step, UNKNOWN)]
    if odd:
        raise SchedulerError(
            f"the weights are those after {odd[0]} of {steps} optimizer steps, the Scheduler is at step {step}: load "
            "the saved states of both, with model.load_state_dict and scheduler.load_state_dict; or begin anew from "
            "these weights with Scheduler(..., start_over=True)"
        )


def no_room(track: Track) -> str:
    """Why a schedule cannot begin with the masks of now; empty when it can.

    A model that was pruned already has fewer weights than the first prunings of a new schedule keep.
    """
    # Played through without weights: each update tells how many it would leave.
    alive, total, part = track.nonzeros(), track.total, track.part
    for update in track.updates:
        after = update.alive(alive, total)
        if isinstance(update, (Prune, SettleAndPrune, DrawTicket)) and after > alive:
            return part.says(
                f"the masks keep {alive} of {total} weights already, and {part.plan.method} keeps {after} at "
                f"epoch {update.epoch:g} of run {update.run}: the model has been pruned before. Call "
                "sparsify_fx.merge(model) and apply again for a new schedule, or load the saved state of this one"
            )
        alive = after
    return ""


@torch.no_grad()
def check_finite(model: nn.Module, epoch: int) -> None:
    """Raise TrainingError when a trained tensor of a weight program is NaN or infinite; one synchronization."""
    named = [(name, p) for name, p in _factors(model) if p.numel() and not p.is_meta]
    if not named:
        return

    # The largest entry is NaN or infinite as soon as one is. All of them go to the host in one tensor: to ask each
    # layer by itself would wait for the device as often as there are layers.
    device = named[0][1].device
    sizes = torch.stack([_size(part(p, p)).to(device, torch.float32) for _, p in named])
    # Each process sees its own shards, and all of them must go on or stop.
    like = next((p for _, p in named if sharded(p)), named[0][1])
    finite = lowest(sizes.isfinite().to(torch.int32), like).tolist()
    broken = [name for (name, _), fine in zip(named, finite, strict=True) if not fine]
    if broken:
        raise TrainingError(
            f"after epoch {epoch} {len(broken)} weights hold NaN or Inf, for instance {broken[0]}: the training "
            "diverged; go back to an earlier checkpoint, lower the learning rate or lengthen its warm-up"
        )


def _size(tensor: Tensor) -> Tensor:
    """The largest abs of all entries; 0 of an empty shard."""
    if not tensor.numel():
        return tensor.new_zeros(())
    found: Tensor = torch.linalg.vector_norm(tensor, torch.inf)
    return found
