"""State that an optimizer has taken from a checkpoint of the other storage, or of vectors of another length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.living.place import place, places_of
from sparsify_fx.living.stored import Stored
from sparsify_fx.optimizer_states.holders import places


@torch.no_grad()
def fit_state(optimizers: Sequence[Any], program: Stored) -> None:
    """Bring what optimizers keep for the factors of a program into the storage of the program, in place.

    Optimizers load any state, whatever its shapes, and fail when they make a step. What is of the weight's shape, or a
    vector of at least as many entries as live, follows the program's mask; room and dead entries hold zeros.
    """
    mask = program._buffers.get("mask")
    if mask is None or mask.is_meta:
        return
    for name in program.parameterization.factors:
        factor = program.get_parameter(name)
        for found in places(optimizers, factor):
            if not isinstance(found.state, dict):
                continue
            for key, tensor in found.state.items():
                fitted = _fitted(tensor, factor, program, mask)
                if fitted is not tensor:
                    found.state[key] = fitted


def _fitted(tensor: Any, factor: nn.Parameter, program: Stored, mask: Tensor) -> Any:
    """The tensor as it has to be for this factor; itself where it is that already, or nothing that can be brought."""
    if not isinstance(tensor, Tensor) or tensor.shape == factor.shape:
        return tensor
    if tensor.dim() != mask.dim() or tensor.numel() <= 1:
        return tensor
    if tensor.shape == mask.shape:
        return program.stored(tensor)
    living = places_of(mask).to(tensor.device)
    if tensor.numel() != len(tensor) or len(tensor) < len(living):
        return tensor
    return program.stored(place(tensor, living, mask))
