"""State that was saved in one storage, brought into the storage that its parameter has now."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsify_fx.errors import SchedulerError
from sparsify_fx.living.moving import move, sources
from sparsify_fx.optimizer_states.blocks import is_quantized
from sparsify_fx.optimizer_states.clear import clear_entries, restart_histories
from sparsify_fx.optimizer_states.holders import Place, places, walk
from sparsify_fx.optimizer_states.layouts import same_order


class HasStorage(Protocol):
    """What a weight program tells of its storage."""

    def places(self) -> Tensor | None:
        """The places of its living entries; None in full storage."""

    def current_mask(self) -> Tensor | None:
        """Its mask (uint8, shape of the weight), None before there is one."""

    def factor_tensors(self) -> dict[str, nn.Parameter]:
        """Its factors, as they are stored."""


@torch.no_grad()
def fit_states(optimizers: Sequence[Any], program: HasStorage) -> None:
    """Bring what elementwise optimizers keep of a program's factors into the program's storage, in place.

    A state dict that was saved in full storage has the shape of the weight, one of living storage that of its living
    entries: the mask of now tells which, so the states of model and optimizer have to be of one moment. Entries that
    the saved state does not have start afresh.

    Raises SchedulerError for a state of another number of living entries, and for quantized state.
    """
    for factor, misfits in _misfits(optimizers, program).items():
        for place, name, tensor, lies in misfits:
            _check(place, name, tensor, lies)
        work = [(tensor, lies) for _, _, tensor, lies in misfits]
        _refit(optimizers, program, factor, work)


def lies_otherwise(optimizers: Sequence[Any], program: HasStorage) -> bool:
    """Whether an optimizer has state of the program's factors that lies otherwise than they do."""
    return bool(_misfits(optimizers, program))


def _misfits(
    optimizers: Sequence[Any], program: HasStorage
) -> dict[nn.Parameter, list[tuple[Place, Any, Tensor, Tensor]]]:
    """(where, name, tensor, the places of its entries in the weight) of state that lies otherwise than its factor."""
    mask = program.current_mask()
    if mask is None or mask.is_meta:
        return {}
    found: dict[nn.Parameter, list[tuple[Place, Any, Tensor, Tensor]]] = {}

    # Only where something lies otherwise: as many numbers as the weight has entries.
    @functools.cache
    def every() -> Tensor:
        return torch.arange(mask.numel(), device=mask.device)

    @functools.cache
    def living() -> Tensor:
        return every()[mask.reshape(-1) == 1]

    for factor in program.factor_tensors().values():
        for place in places(optimizers, factor):
            for path, tensor in walk(place.state):
                lies = _lies(tensor, factor, mask, (every, living))
                if lies is not None:
                    found.setdefault(factor, []).append((place, path[-1], tensor, lies))
    return found


def _refit(
    optimizers: Sequence[Any],
    program: HasStorage,
    factor: nn.Parameter,
    work: Sequence[tuple[Tensor, Tensor]],
) -> None:
    now = program.places()
    places_now = (
        torch.arange(factor.numel(), device="cpu") if now is None else now.long()
    )
    fresh = torch.zeros(factor.numel(), dtype=torch.bool, device=factor.device)
    for tensor, lies in work:
        known = sources(lies, places_now.to(lies.device), factor.numel())
        move(tensor, known.to(tensor.device), shape=factor.shape)
        fresh |= known.to(factor.device) < 0
    restart_histories(optimizers, factor)
    if bool(fresh.any()):
        clear_entries(optimizers, factor, fresh.view(factor.shape))


def _lies(
    tensor: Tensor,
    factor: nn.Parameter,
    mask: Tensor,
    kinds: tuple[Callable[[], Tensor], Callable[[], Tensor]],
) -> Tensor | None:
    """The places of the entries of a state in the weight, where it lies otherwise than the factor; else None."""
    every, living = kinds
    if tensor.dim() == 0 or tensor.shape == factor.shape:
        return None
    if tensor.shape == mask.shape:
        return every()
    # A vector of living entries, [n, 1, ...]; other states of that form belong to optimizers that need matrices.
    if list(tensor.shape[1:]) == [1] * (mask.dim() - 1) and mask.dim() > 1:
        return living()
    # Flattened.
    if same_order(tensor.shape, factor.shape):
        return None
    return every() if same_order(tensor.shape, mask.shape) else None


def _check(place: Place, name: Any, tensor: Tensor, lies: Tensor) -> None:
    kind = type(place.holder).__name__
    if is_quantized(tensor):
        raise SchedulerError(
            f"{kind} keeps its state {name!r} in quantized blocks and was saved in the other storage, so its entries "
            'cannot move; call sparsify_fx.apply with the storage= ("full" or "living") of the training that saved it'
        )
    behind = tensor.reshape(-1)[lies.numel() :]
    # Room has no values of its own; entries that live do.
    room = behind.numel() == 0 or bool((behind == behind[0]).all())
    if tensor.numel() < lies.numel() or not room:
        raise SchedulerError(
            f"the state {name!r} of {kind} is that of {tensor.numel()} living entries, where the mask of the weight "
            f"lets {lies.numel()} live; load the states of model and optimizer that were saved together"
        )
