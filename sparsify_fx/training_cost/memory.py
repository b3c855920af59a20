"""Memory of a training: what is kept between steps, the peak of a step beyond activations, and its checkpoint.

Beyond activations is what does not grow with the batch: a step is taken with three sizes of a batch, and of its
allocations those are counted whose size is found in all of them. The products of factors and the dense gradients that a
sparse training makes are among them, and the weights that a graph keeps for its backward.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree

from sparsify_fx.living.memory import release
from sparsify_fx.living.stored import LIVING
from sparsify_fx.training_cost.allocations import (
    Allocation,
    alive_at_peak,
    allocations,
    peak_of,
)
from sparsify_fx.training_cost.trainee import Trainee

WEIGHTS, GRADIENTS, STATE = "weights", "gradients", "optimizer state"
INDICES, MASKS, MADE = "indices", "masks", "made in the step"
KINDS = (WEIGHTS, GRADIENTS, STATE, INDICES, MASKS)
# So many rows are added to the batch in the steps that are compared.
_MORE_ROWS = (0, 1, 3)


@dataclass(frozen=True)
class Memory:
    """Bytes of a training.

    Attributes:
        kept: by kind, counted from the tensors after a step, when all gradients are there. Weights are parameters
            (factors included) and buffers but masks; indices are the places of living entries.
        at_peak: what is alive when a step needs most beyond activations, by kind; "made in the step" is what it makes
            itself, products and dense gradients among them.
        peak: their sum.
        with_activations: the most that is alive at any time of a step, with the batch and all activations.
        checkpoint: a file with the state dicts of model and optimizer.
    """

    kept: dict[str, int]
    at_peak: dict[str, int]
    peak: int
    with_activations: int
    checkpoint: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def memory_of(trainee: Trainee) -> Memory:
    """Measure a trainee, which takes some steps; uncompiled, for a compiler would make another graph for each batch."""
    trainee.step()
    kept = _bytes_by_kind(trainee)
    steps = [_watched(trainee, trainee.setting.batch + more) for more in _MORE_ROWS]
    sizes = [{abs(event.size) for event in step.events} for step in steps]
    constant = set.intersection(*sizes)
    # An activation of one batch may have the size of a weight by chance, and only adds: the least is right.
    made = min(
        (step.alive(constant) for step in steps), key=lambda each: sum(each.values())
    )

    # Gradients are made anew in each step; the rest of what is kept is there from its beginning.
    at_peak = {**kept, **made}
    there = sum(kept.values()) - kept[GRADIENTS]
    batch = trainee.inputs.nbytes + trainee.targets.nbytes
    return Memory(
        kept=kept,
        at_peak=at_peak,
        peak=sum(at_peak.values()),
        with_activations=peak_of(steps[0].events, there + batch),
        checkpoint=checkpoint_bytes(trainee.model, trainee.optimizer),
    )


@dataclass(frozen=True)
class _Step:
    """What a step allocates and frees, and where the gradients lie that it leaves."""

    events: list[Allocation]
    gradients: set[int]

    def alive(self, sizes: set[int]) -> dict[str, int]:
        """Bytes of gradients, and of all else that the step has made, when what has one of these sizes is most."""
        # The last that comes to an address stays there; what was at it before was something else.
        last = {event.address: number for number, event in enumerate(self.events)}
        found = {GRADIENTS: 0, MADE: 0}
        for number in alive_at_peak(self.events, sizes.__contains__):
            event = self.events[number]
            stays = event.address in self.gradients and last[event.address] == number
            found[GRADIENTS if stays else MADE] += event.size
        return found


def checkpoint_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    """The length of the file that `torch.save` makes of both state dicts."""
    counter = _Counter()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, counter)
    return counter.size


class _Counter(io.BytesIO):
    """A file that keeps nothing of what is written but its length."""

    size = 0

    def write(self, data: Any) -> int:
        """Take some bytes."""
        self.size += len(data)
        return len(data)


def _watched(trainee: Trainee, rows: int) -> _Step:
    """A step with a batch of this size."""
    own = trainee.inputs, trainee.targets
    trainee.inputs, trainee.targets = trainee.setting.data(rows)
    # Before anyone watches: the end of what is older than that is not told, nor is memory counted that was kept.
    trainee.optimizer.zero_grad()
    release()
    events = allocations(trainee.step, trainee.inputs.device)
    trainee.inputs, trainee.targets = own
    gradients = _tensors(trainee)[GRADIENTS]
    return _Step(events, {each.untyped_storage().data_ptr() for each in gradients})


def _tensors(trainee: Trainee) -> dict[str, list[Tensor]]:
    """What is kept between steps, by kind; a tensor is of the first kind that has it."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in (INDICES, MASKS, *KINDS)}
    parameters = list(trainee.model.parameters())
    found[WEIGHTS] += parameters
    for name, buffer in trainee.model.named_buffers():
        last = name.rpartition(".")[2]
        # Those of weight programs, and of whoever else masks weights; models have masks of their own for attention.
        is_mask = last == "mask" and buffer.dtype == torch.uint8
        kind = MASKS if is_mask else INDICES if last == LIVING else WEIGHTS
        found[kind].append(buffer)
    found[GRADIENTS] = [p.grad for p in parameters if p.grad is not None]
    states = _pytree.tree_leaves(list(trainee.optimizer.state.values()))
    found[STATE] = [value for value in states if isinstance(value, Tensor)]
    return found


def _bytes_by_kind(trainee: Trainee) -> dict[str, int]:
    counted: set[int] = set()
    sizes = {kind: _total(ts, counted) for kind, ts in _tensors(trainee).items()}
    return {kind: sizes[kind] for kind in KINDS}


def _total(tensors: Iterable[Tensor], counted: set[int]) -> int:
    """Bytes of the storages of tensors, each once, without those that were counted before."""
    size = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            size += storage.nbytes()
    return size
