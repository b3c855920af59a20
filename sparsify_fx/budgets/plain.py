"""A plain copy of a model in evaluation mode, and the arguments to call it with."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparsify_fx.distributed.data_parallel import shards
from sparsify_fx.errors import LayerError, MethodError
from sparsify_fx.passes import Merge
from sparsify_fx.programs.owners import programs
from sparsify_fx.sharding import copy_in_full

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward."""


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy with plain weights, zeros where pruned, in evaluation mode; the model is only read.

    Raises LayerError for a model of which this process holds a part, and for one with weights that have no values.
    """
    check_whole(model)
    copied = copy_in_full(model)
    if programs(copied):
        Merge()(copied)
    return copied.eval()


def check_whole(model: nn.Module) -> None:
    """Raise LayerError for a model that is no module, is spread over processes, or has weights without values."""
    if not isinstance(model, nn.Module):
        raise LayerError(
            f"expected a torch.nn.Module, got {type(model).__name__}; pass the model"
        )
    reason = next(shards(model), None)
    if reason is not None:
        raise LayerError(
            f"{reason}, so that this process holds only a part of it; make a plain copy on every process first: "
            "copied = sparsify_fx.distributed.gathered(model)"
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise LayerError(
                f"{name} is not initialized yet; run one batch through the model first"
            )
        if parameter.is_meta:
            raise LayerError(
                f"{name} is on the meta device and has no values; give it some first, by model.to_empty(...) and an "
                "initialization or by model.load_state_dict(..., assign=True)"
            )


@contextlib.contextmanager
def untouched_randomness() -> Iterator[None]:
    """The random states of torch, NumPy and Python, given back as they were: loaders use all three."""
    own, numpys = random.getstate(), np.random.get_state()
    # Only where CUDA is in use already: to ask for its state would start it.
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)


def call_of(inputs: Any) -> Call:
    """The arguments that example inputs stand for: a tensor, a tuple of arguments, a dict by name, or a tuple with such
    a dict at its end.

    >>> call_of((1, {"mask": 2}))
    ((1,), {'mask': 2})
    """
    if isinstance(inputs, Mapping):
        return (), {str(name): value for name, value in inputs.items()}
    if not isinstance(inputs, (tuple, list)):
        return (inputs,), {}
    if inputs and isinstance(inputs[-1], Mapping):
        return tuple(inputs[:-1]), {str(n): value for n, value in inputs[-1].items()}
    return tuple(inputs), {}


def first_call(example_inputs: Any, batches: Iterable[Any] | None, what: str) -> Call:
    """The arguments of `example_inputs`, or of one sample of `batches`.

    Raises MethodError when there is neither: a loader is not read, since that would move its random numbers.
    """
    if example_inputs is not None:
        return call_of(example_inputs)
    if isinstance(batches, Sequence) and len(batches) > 0:
        first = batches[0]
        pair = isinstance(first, (tuple, list)) and len(first) > 0
        args, kwargs = call_of(first[0] if pair else first)
        return tuple(map(_one, args)), {n: _one(value) for n, value in kwargs.items()}
    raise MethodError(
        f"{what} needs example_inputs=: one sample as the model takes it, such as torch.ones(1, 3, 224, 224)"
    )


def _one(value: Any) -> Any:
    return value[:1] if isinstance(value, Tensor) and value.dim() > 0 else value
