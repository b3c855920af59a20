"""Undo: what the events of step 0 changed in a training that turns out to go on from a later step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.living.followers import followed_by
from sparsify_fx.living.moving import set_data
from sparsify_fx.living.stored import LIVING
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.progress import Progress
from sparsify_fx.sharding import part, write_into


class Undo:
    """Takes back what a Scheduler did at step 0, when it is given the state of a later step.

    At construction a Scheduler cannot know whether the weights or the optimizer's state of another training will follow
    in place of those that it sees: an optimizer that was loaded first, or a finished model whose script is run again.

    Args:
        weights: copy the weight programs too; else the optimizers alone. Copies lie on the CPU.
        states: copy the optimizers' state too; else the settings of their groups alone.
        progress: of all parts.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        progress: Sequence[Progress],
        weights: bool,
        states: bool,
    ) -> None:
        groups: list[dict[str, Any]] = []
        for optimizer in optimizers:
            groups += optimizer.param_groups
        settings = [
            {key: value for key, value in group.items() if key != "params"}
            for group in groups
        ]
        self._groups = list(zip(groups, settings, strict=True))

        # Numbers are kept by the dict above; tensors (a rate of a capturable optimizer, momentum) are written in place
        # and need copies.
        values: list[object] = []
        for group in settings:
            values += group.values()
        for optimizer in optimizers if states else ():
            for state in optimizer.state.values():
                values += state.values()
        self._states = _copies(values)

        found = programs(model).values() if weights else ()
        self._weights = [(program, _state(program)) for program in found]
        self._progress = [(now, replace(now)) for now in progress] if weights else []

    def optimizers(self) -> None:
        """Settings and state as they were; an optimizer that was loaded since has others, and keeps them."""
        # Tensors that are the state still get their values back. `load_state_dict` of an optimizer makes new ones,
        # which this does not reach.
        _write(self._states)
        for group, settings in self._groups:
            group.update(settings)

    def weights(self) -> None:
        """Weights, masks and progress as they were."""
        for program, known in self._weights:
            # No optimizer follows: what they kept is back already.
            with followed_by(()):
                program.put_back(known)
        for now, then in self._progress:
            # In place: all programs of a part share the object.
            now.step, now.steps, now.schedule = then.step, then.steps, then.schedule


def _copies(values: Iterable[object]) -> list[tuple[Tensor, Tensor]]:
    # On the CPU: they are needed once at most, and beside a training the device may be full.
    return [
        (value, part(value.detach(), value).to("cpu", copy=True))
        for value in values
        if isinstance(value, Tensor)
    ]


def _state(program: WeightProgram) -> dict[str, Tensor]:
    """Everything that the program has, as full storage would have it: the storage may be another one by then."""
    own = {**program._parameters, **program._buffers}
    tensors = {n: t.detach() for n, t in own.items() if t is not None and n != LIVING}
    full = program.in_full(tensors)
    # Of what is sharded the own part.
    return {n: part(t, t).to("cpu", copy=True) for n, t in full.items()}


@torch.no_grad()
def _write(copies: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, known in copies:
        # A vector of living entries had another length then.
        if part(tensor, tensor).shape == known.shape:
            write_into(tensor, known)
        else:
            set_data(tensor, known.to(tensor.device))
