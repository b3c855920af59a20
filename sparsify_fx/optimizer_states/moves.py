"""State that moves along when a parameter's entries do: vectors over the living entries of a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import SchedulerError
from sparsify_fx.living.moving import move
from sparsify_fx.optimizer_states.blocks import is_quantized
from sparsify_fx.optimizer_states.clear import clear_entries, restart_histories
from sparsify_fx.optimizer_states.holders import places
from sparsify_fx.optimizer_states.layouts import entry_tensors


class Moving:
    """The state of a parameter that is about to get other entries, found while it still has the old ones.

    Args:
        optimizers: those of the training; wrappers are looked through.
        parameter: one of theirs, of shape [n, 1, ...].

    Raises SchedulerError for state that is kept as codes of whole blocks.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.grad = torch.tensor([1.0, 2.0])
    >>> optimizer.step()
    >>> moving = Moving([optimizer], weight)
    >>> source = torch.tensor([1, -1, -1])
    >>> move(weight, source)
    >>> moving.to(source)
    >>> optimizer.state[weight]["momentum_buffer"]
    tensor([2., 0., 0.])
    """

    def __init__(self, optimizers: Sequence[Any], parameter: nn.Parameter) -> None:
        self._optimizers, self._parameter = optimizers, parameter
        self._tensors: list[Tensor] = []
        # A wrapper and the optimizer in it may both be here: each tensor moves once.
        known: set[int] = set()
        for place in places(optimizers, parameter):
            for path, found in entry_tensors(place, parameter).items():
                for tensor in found:
                    if is_quantized(tensor):
                        raise SchedulerError(
                            f"{type(place.holder).__name__} keeps its state {path[-1]!r} in quantized blocks, whose "
                            'entries cannot move; call sparsify_fx.apply(..., storage="full")'
                        )
                    if id(tensor) not in known:
                        known.add(id(tensor))
                        self._tensors.append(tensor)

    @torch.no_grad()
    def to(self, source: Tensor, shape: torch.Size | None = None) -> None:
        """Take the entries `source` of the old ones; −1 gets the state of a new parameter. The parameter has moved.

        Args:
            shape: that of the parameter now; None: a vector.
        """
        for tensor in self._tensors:
            move(tensor, source, shape=shape)
        restart_histories(self._optimizers, self._parameter)
        fresh = (source < 0).view(self._parameter.shape)
        # Most prunings only take entries away, and then there is nothing to look up.
        if self._tensors and bool(fresh.any()):
            clear_entries(self._optimizers, self._parameter, fresh)
