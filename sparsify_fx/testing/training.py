"""One training of the small net with any method, and what the laws look at afterwards."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from sparsify_fx.api import apply, merge
from sparsify_fx.errors import SchedulerError
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.recipe import find_method
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.testing.small import batch, loss_of, net_for

EPOCHS = 4
SPARSITY = 0.5  # four prunings in cycles
# In lengths of the first run: soon, in its middle, at its end, in the second.
SAVED_AT = (0.0, 0.6, 1.0, 1.3)


def prepare(
    method: str, sparsity: float = SPARSITY, seed: int = 0, storage: str = "auto"
) -> nn.Module:
    """The small net after `apply`."""
    criterion: Any = find_method(method).resolved().criterion
    if dataclasses.is_dataclass(criterion) and hasattr(criterion, "rounds"):
        # The laws do not depend on the number of rounds, the time does.
        criterion = dataclasses.replace(criterion, rounds=4)  # type: ignore[type-var]
    return apply(
        net_for(criterion, sparsity),
        method,
        sparsity=sparsity,
        batches=[batch()],
        loss_fn=loss_of,
        seed=seed,
        criterion=criterion,
        storage=storage,
    )


def schedule(model: nn.Module, optimizer: Optimizer) -> Scheduler:
    """With the shortest runs that the mask updates fit into: 2 steps an epoch, 5 for the 20 phases of AC/DC."""
    given: dict[str, Any] = {"epochs": EPOCHS, "batches": [batch()], "loss_fn": loss_of}
    # The Scheduler refuses two updates at one step: the first length that it takes is the shortest.
    for steps in (2, 3):
        with contextlib.suppress(SchedulerError):
            return Scheduler(model, optimizer, steps_per_epoch=steps, **given)
    return Scheduler(model, optimizer, steps_per_epoch=5, **given)


def saved_at(share: float, scheduler: Scheduler) -> int:
    """The step after a share of the first run; at least one step after the start and before the end."""
    return min(
        max(round(share * EPOCHS * scheduler.steps_per_epoch), 1), scheduler.steps - 1
    )


def sgd(model: nn.Module) -> Optimizer:
    """Momentum and weight decay, both of which would move pruned weights if they could."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def run(model: nn.Module, optimizer: Optimizer, scheduler: Scheduler) -> Iterator[int]:
    """Train to the end of the schedule, handing over after every step."""
    while not scheduler.finished:
        inputs, labels = batch(scheduler.step_count)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels) + scheduler.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        # Rising with every step, so that actions and penalties that look at the accuracy see one.
        scheduler.observe(accuracy=scheduler.step_count / 100)
        scheduler.step()
        yield scheduler.step_count


@dataclass
class Record:
    """One training with SGD: non-zeros after each step, the largest stale momentum, saved states, the end."""

    scheduler: Scheduler
    counts: list[int]
    stale: float = 0.0
    saved: dict[int, Any] = field(default_factory=dict)
    end: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    merged_nonzeros: int = 0


def straight(method: str) -> Record:
    """The training from beginning to end; several laws look at the same one."""
    return _once(method, repr(find_method(method).resolved()))


@functools.cache
def _once(method: str, axes: str) -> Record:
    """`axes` is in the key alone: another method may be registered under the name of one that was taken away."""
    return trained(method)


def trained(method: str, storage: str = "auto") -> Record:
    """As `straight`, but trained anew at every call."""
    model = prepare(method, storage=storage)
    optimizer = sgd(model)
    scheduler = schedule(model, optimizer)
    record = Record(scheduler, [scheduler.nonzeros()])
    names, before = list(programs(model)), masks_of(model)
    for step in run(model, optimizer, scheduler):
        record.counts.append(scheduler.nonzeros())
        record.stale = max(record.stale, stale_momentum(model, optimizer, before))
        before = masks_of(model)
        # Each at most once: in a short training two shares may be the same step.
        if step in {saved_at(share, scheduler) for share in SAVED_AT}:
            record.saved[step] = copy.deepcopy(
                (model.state_dict(), optimizer.state_dict(), scheduler.state_dict())
            )
    # The end before the merge, which takes masks and factors out.
    record.end = copy.deepcopy(model.state_dict())
    record.weights = {n: p.effective().clone() for n, p in programs(model).items()}
    merge(model)
    record.merged_nonzeros = sum(
        int((model.get_parameter(name) != 0).sum()) for name in names
    )
    return record


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the masks by weight name; of the weights that have one."""
    return {name: mask.clone() for name, mask in current_masks(programs(model)).items()}


def stale_momentum(
    model: nn.Module, optimizer: Optimizer, before: dict[str, Tensor]
) -> float:
    """The largest momentum of a pruned weight, and momentum or value of one that has just come back."""
    largest = 0.0
    for name, mask in masks_of(model).items():
        program = programs(model)[name]
        grown = (mask == 1) & (before[name] == 0)
        # A regrown weight starts from zero. The 0.0 stands for layers in which none has come back.
        largest = max(largest, *program.theta()[grown].abs().tolist(), 0.0)
        zero = program.parameterization.split(torch.zeros(1))
        for factor, tensor in program.factor_tensors().items():
            momentum = optimizer.state.get(tensor, {}).get("momentum_buffer")
            if momentum is not None and factor in zero:
                # m of a pruned weight is sqrt(β) and decays, as does a gate; w or d, and so θ, stays zero.
                watched = grown if zero[factor] != 0 else grown | (mask == 0)
                kept = program.restored(momentum)
                largest = max(largest, *kept[watched].abs().tolist(), 0.0)
    return largest
