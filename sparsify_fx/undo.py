"""Undo: a Scheduler that began anew on finished weights goes back when it is given the state of the old training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.owners import programs
from sparsify_fx.progress import Progress


class Undo:
    """Copies, on the CPU, of everything that the events of step 0 may change.

    A script that is run again loads the last checkpoint of a finished training and builds its Scheduler: the same as
    the beginning of another training from these weights, until the Scheduler's own state is loaded.

    Args:
        progress: of all parts.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], progress: Sequence[Progress]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        known = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self._groups = list(zip(groups, known, strict=True))
        self._progress = [(now, replace(now)) for now in progress]
        tensors = [tensor for program in programs(model).values() for tensor in _tensors(program)]
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        tensors += [value for values in (*states, *known) for value in values.values() if isinstance(value, Tensor)]
        self._tensors = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]

    @torch.no_grad()
    def __call__(self) -> None:
        """Write everything back."""
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        for group, known in self._groups:
            group.update(known)
        for now, then in self._progress:
            now.step, now.steps, now.schedule = then.step, then.steps, then.schedule


def _tensors(program: nn.Module) -> list[Tensor]:
    return [*program.parameters(), *program.buffers()]
