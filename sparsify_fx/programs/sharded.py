"""Programs of which FSDP holds shards, run outside of a forward: for penalties, and for readers of a layer's weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.living.stored import Stored
from sparsify_fx.sharding import replicated, shard, sharded


def has_shards(program: nn.Module) -> bool:
    """Whether the factors are sharded now; within a forward of FSDP they are whole."""
    return any(map(sharded, program._parameters.values()))


def in_full(tensor: Tensor) -> Tensor:
    """All entries as a plain tensor, gathered; gradients go back to the shards."""
    return tensor.full_tensor() if sharded(tensor) else tensor


def meeting(number: Tensor, programs: Iterable[nn.Module]) -> Tensor:
    """A tensor without an axis as it can meet the tensors of these programs, within `on_shards`."""
    for program in programs:
        for parameter in program._parameters.values():
            if parameter is not None and sharded(parameter):
                return replicated(number, parameter)
    return number


@contextmanager
def on_shards(programs: Iterable[nn.Module]) -> Iterator[None]:
    """Within this context sharded programs can be run: on DTensors, or in living storage on gathered vectors."""
    before = []
    for program in programs:
        if isinstance(program, Stored) and has_shards(program):
            before.append((program, dict(program._parameters), dict(program._buffers)))
            _lay(program)
    try:
        yield
    finally:
        for program, parameters, buffers in before:
            program._parameters.update(parameters)
            program._buffers.update(buffers)


class _AsSharded(torch.autograd.Function):
    """The tensor itself, whose gradient lies as it does.

    DTensor gathers where there are fewer rows than processes, and the gradient would be whole: FSDP adds the parts of
    its own to it as if it were a shard.
    """

    @staticmethod
    def forward(context: Any, tensor: Any) -> Any:
        context.placements = tensor.placements
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return gradient.redistribute(placements=context.placements)


def _lay(program: Stored) -> None:
    like = program._parameters[program.parameterization.factors[0]]
    assert like is not None
    full = program.places() is None
    for name, parameter in program._parameters.items():
        if parameter is not None and sharded(parameter):
            # A vector of living entries has no rows of the weight, by which its places could be told.
            laid: Any = _AsSharded.apply(parameter) if full else in_full(parameter)
            # By this mark torch tells parameters from other tensors.
            laid._is_param = True
            program._parameters[name] = laid
    if full:
        for name, buffer in program._buffers.items():
            if buffer is not None and buffer.shape == like.shape:
                program._buffers[name] = shard(buffer, like)
            # A forward takes a plain number beside a DTensor, its backward does not.
            elif buffer is not None and buffer.dim() == 0:
                program._buffers[name] = replicated(buffer, like)
