"""Guards: what the Scheduler checks before it trusts optimizers and weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.errors import SchedulerError, TrainingError
from sparsify_fx.optimizer_states import check_supported
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import UNKNOWN, Progress


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
    optimizers = tuple(unwrapped(optimizer) for optimizer in optimizers)
    trained = [
        (name, p)
        for name, program in programs(model).items()
        for name, p in _factors(name, program)
    ]
    holders: dict[int, list[int]] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter in {
            id(p) for group in optimizer.param_groups for p in group["params"]
        }:
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
            "sparsify_fx.apply(model), give all optimizers of the model as a list, or freeze those weights with "
            "requires_grad_(False)"
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
    plain = {
        id(parameter): f"{name}.{tensor}" if name else tensor
        for name, module in model.named_modules()
        if not isinstance(module, WeightProgram)
        for tensor, parameter in module._parameters.items()
        if parameter is not None
    }
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
    if (
        inner is None
        or groups is None
        or groups is not optimizer.param_groups
        or state is not optimizer.state
    ):
        return optimizer
    return unwrapped(inner)


def _factors(name: str, program: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{name} ({factor})", p)
        for factor, p in program.named_parameters()
        if p.requires_grad
    ]


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


@torch.no_grad()
def check_finite(model: nn.Module, epoch: int) -> None:
    """Raise TrainingError when a trained tensor of a weight program is NaN or infinite; one synchronization."""
    pairs = [
        pair
        for name, program in programs(model).items()
        for pair in _factors(name, program)
    ]
    named = [(name, p) for name, p in pairs if p.numel() and not p.is_meta]
    if not named:
        return
    # The largest entry is NaN or infinite as soon as one is.
    device = named[0][1].device
    sizes = torch.stack(
        [
            torch.linalg.vector_norm(p, torch.inf).to(device, torch.float32)
            for _, p in named
        ]
    )
    broken = [
        name
        for (name, _), size in zip(named, sizes.isfinite().tolist(), strict=True)
        if not size
    ]
    if broken:
        raise TrainingError(
            f"after epoch {epoch} {len(broken)} weights hold NaN or Inf, for instance {broken[0]}: the training "
            "diverged; go back to an earlier checkpoint, lower the learning rate or lengthen its warm-up"
        )
