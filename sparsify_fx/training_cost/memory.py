"""Memory of a training: what is kept between steps, the peak of a step beyond activations, and its checkpoint.

Beyond activations is what does not grow with the batch: a step is taken with two sizes of a batch, and of the storages
that come to life in both those of equal size are counted. The factors' products and the dense gradients of a sparse
training are among them, as are the weights that a graph keeps for its backward.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree

from sparsify_fx.errors import ConfigError
from sparsify_fx.living.stored import LIVING
from sparsify_fx.programs.owners import programs
from sparsify_fx.training_cost.live_bytes import LiveBytes
from sparsify_fx.training_cost.trainee import Trainee

WEIGHTS, GRADIENTS, STATE, MASKS = "weights", "gradients", "optimizer state", "masks"
INDICES, MADE = "indices", "made in the step"
KINDS = (WEIGHTS, GRADIENTS, STATE, INDICES, MASKS)


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
        """For JSON."""
        return asdict(self)


def memory_of(trainee: Trainee) -> Memory:
    """Measure a trainee, which takes some steps; uncompiled, since what a compiler fuses is not seen."""
    trainee.step()
    first = _seen(trainee, trainee.setting.batch)
    # Kernels may change at a size, and then other tensors come to life; either neighbor will do.
    others = (trainee.setting.batch + 1, trainee.setting.batch - 1)
    for batch in others:
        second = _seen(trainee, batch)
        if len(second.sizes) == len(first.sizes):
            break
    else:
        raise ConfigError(
            f"steps of {trainee.name} make other tensors at batches {others} than at {trainee.setting.batch}, so that "
            "activations cannot be told from weights; give another batch"
        )
    equal = [a == b for a, b in zip(first.sizes, second.sizes, strict=True)]
    alive = first.at_peak(equal)
    at_peak = dict.fromkeys((*KINDS, MADE), 0)
    for number in alive:
        at_peak[first.kinds.get(number, MADE)] += first.sizes[number]
    return Memory(
        kept=_bytes_of(trainee.model, trainee.optimizer),
        at_peak=at_peak,
        peak=sum(at_peak.values()),
        with_activations=first.peak(),
        checkpoint=checkpoint_bytes(trainee.model, trainee.optimizer),
    )


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


@dataclass(frozen=True)
class _Step:
    """The storages of one step: their sizes, when they came and went, and what some of them are."""

    sizes: list[int]
    log: list[int]
    kinds: dict[int, str]

    def peak(self) -> int:
        changes = (
            self.sizes[mark - 1] if mark > 0 else -self.sizes[-mark - 1]
            for mark in self.log
        )
        return max(itertools.accumulate(changes), default=0)

    def at_peak(self, counted: list[bool]) -> set[int]:
        """The numbers of those that are alive when the counted ones are most bytes, of these alone."""
        size = most = 0
        alive: set[int] = set()
        found: set[int] = set()
        for mark in self.log:
            number = abs(mark) - 1
            if not counted[number]:
                continue
            if mark < 0:
                alive.discard(number)
                size -= self.sizes[number]
                continue
            alive.add(number)
            size += self.sizes[number]
            if size > most:
                most, found = size, set(alive)
        return found


def _seen(trainee: Trainee, batch: int) -> _Step:
    """A step with a batch of this size, watched."""
    own = trainee.inputs, trainee.targets
    trainee.inputs, trainee.targets = trainee.setting.data(batch)
    live = LiveBytes([trainee.inputs, trainee.targets])
    # Nothing here may hold on to these tensors: the old gradients go where the step forgets them.
    numbers = _numbered(live, _tensors(trainee.model, trainee.optimizer))
    with live:
        trainee.step()
    live.close()
    # Once more: the gradients are now those of this step.
    numbers |= _numbered(live, _tensors(trainee.model, trainee.optimizer))
    trainee.inputs, trainee.targets = own
    return _Step(live.sizes, live.log, numbers)


def _numbered(live: LiveBytes, tensors: Mapping[str, list[Tensor]]) -> dict[int, str]:
    """The kind of each storage by its number."""
    found: dict[int, str] = {}
    for kind, several in tensors.items():
        for tensor in several:
            number = live.see(tensor)
            if number is not None:
                found.setdefault(number, kind)
    return found


def _tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """What is kept between steps, by kind; a tensor is of the first kind that has it."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in (INDICES, MASKS, *KINDS)}
    for program in programs(model).values():
        for name, kind in ((LIVING, INDICES), ("mask", MASKS)):
            tensor = program._buffers.get(name)
            if tensor is not None:
                found[kind].append(tensor)
    found[WEIGHTS] = [*model.parameters(), *model.buffers()]
    found[GRADIENTS] = [p.grad for p in model.parameters() if p.grad is not None]
    states = _pytree.tree_leaves(list(optimizer.state.values()))
    found[STATE] = [value for value in states if isinstance(value, Tensor)]
    return found


def _bytes_of(model: nn.Module, optimizer: Optimizer) -> dict[str, int]:
    counted: set[int] = set()
    return {
        kind: _total(tensors, counted)
        for kind, tensors in _tensors(model, optimizer).items()
    }


def _total(tensors: Iterable[Tensor], counted: set[int]) -> int:
    """Bytes of the storages of tensors, each once, without those that were counted before."""
    size = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            size += storage.nbytes()
    return size
