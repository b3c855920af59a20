"""Where entries lie in living storage: for a while as at a snapshot, then as the masks of now have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.living.moving import move, sources
from sparsify_fx.optimizer_states.moves import Moving
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.sharding import sharded


@contextmanager
def at_places(
    view: nn.Module, optimizers: Sequence[Optimizer], recorded: Mapping[str, Tensor]
) -> Iterator[None]:
    """Within this context optimizer state lies as it did at the snapshot; then where the masks of now have it.

    Args:
        recorded: the places of the living entries then, by weight name; none for a weight that was in full storage.
    """
    moved = {
        name: program
        for name, program in programs(view).items()
        if (program.places() is not None or name in recorded)
        and not _stays(program, recorded.get(name))
    }
    values = {}
    for name, program in moved.items():
        then = recorded.get(name)
        for factor in program.factor_tensors().values():
            values[factor] = factor.detach().clone()
            _move_all(
                optimizers,
                factor,
                _laid(program, program.places()),
                _laid(program, then),
            )
    yield
    for name, program in moved.items():
        then = recorded.get(name)
        for factor in program.factor_tensors().values():
            known = values[factor]
            there, _ = _laid(program, program.places())
            _move_all(optimizers, factor, _laid(program, then), (there, known.shape))
            factor.detach().copy_(known)


def _stays(program: WeightProgram, then: Tensor | None) -> bool:
    """Whether the vectors are sharded, so that nothing of them can move, and lie as they did."""
    factor = next(iter(program.factor_tensors().values()))
    now = program.places()
    if not sharded(factor) or now is None or then is None:
        return False
    return torch.equal(now, then.to(now.device))


_Layout = tuple[Tensor, torch.Size]


def _laid(program: WeightProgram, places: Tensor | None) -> _Layout:
    """The places in the weight of what a factor stores, and its shape; None: full storage."""
    mask = program.current_mask()
    assert mask is not None
    if places is None:
        return torch.arange(mask.numel(), device=mask.device), mask.shape
    shape = torch.Size([places.numel(), *[1] * (mask.dim() - 1)])
    return places.to(mask.device, torch.int64), shape


def _move_all(
    optimizers: Sequence[Optimizer], factor: nn.Parameter, here: _Layout, there: _Layout
) -> None:
    """Let a factor and its optimizer state lie otherwise."""
    moving = Moving(optimizers, factor)
    source = sources(here[0], there[0], there[1].numel())
    move(factor, source, shape=there[1])
    moving.to(source, there[1])
