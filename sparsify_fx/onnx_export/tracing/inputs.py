"""The arguments that a forward is called with: positional Tensors, and Tensors by the name of their parameter."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError

ExampleInputs = Tensor | Sequence[Tensor | Mapping[str, Tensor]] | Mapping[str, Tensor]
"""What `export` takes for the arguments of a forward."""

_EXPECTED = "expected a Tensor, a tuple of Tensors, or a dict of Tensors by the names of forward's parameters"


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments; everything else speaks of both as one row, `tensors`."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, positional ones first."""
        return (*self.args, *self.kwargs.values())

    def holding(self, tensors: Sequence[Tensor]) -> Inputs:
        """Other tensors in the same places."""
        count = len(self.args)
        return Inputs(
            tuple(tensors[:count]), dict(zip(self.kwargs, tensors[count:], strict=True))
        )

    def resized(self, sizes: Sequence[Mapping[int, int]]) -> Inputs:
        """The inputs with other sizes, per tensor by axis: cut, or repeated from the start."""
        return self.holding(
            [
                _resized(value, wanted)
                for value, wanted in zip(self.tensors, sizes, strict=True)
            ]
        )

    def shapes(self) -> str:
        """Shapes and types, for messages."""
        names = ([""] * len(self.args)) + [f"{name}: " for name in self.kwargs]
        return ", ".join(
            f"{name}{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            for name, value in zip(names, self.tensors, strict=True)
        )


def _resized(value: Tensor, wanted: Mapping[int, int]) -> Tensor:
    """One tensor with other sizes, by axis."""
    for axis, size in wanted.items():
        if size != value.shape[axis]:
            # Entries repeat from the start: values stay among those that the model is known to take.
            value = value.index_select(
                axis, torch.arange(size, device="cpu") % value.shape[axis]
            )
    return value


def example_tensors(given: Any, what: str = "example_inputs") -> Inputs:
    """The inputs as CPU tensors, copied, floats as float32.

    Raises ExportError unless they are a Tensor, a tuple or list of Tensors, a mapping of Tensors by name, or a tuple
    with such a mapping as its last entry, each with at least one element.

    >>> example_tensors("x")
    Traceback (most recent call last):
    sparsify_fx.errors.ExportError: example_inputs: expected a Tensor, a tuple of Tensors, or a dict of Tensors by the \
names of forward's parameters, got str
    """
    # 1. One row of arguments; a dict at its end, as torch.onnx has it, holds the named ones.
    row = [given] if isinstance(given, Tensor | Mapping) else given
    if not isinstance(row, tuple | list):
        raise ExportError(f"{what}: {_EXPECTED}, got {type(given).__name__}")
    named = dict(row[-1]) if row and isinstance(row[-1], Mapping) else {}
    args = list(row[:-1]) if row and isinstance(row[-1], Mapping) else list(row)
    if not args and not named:
        raise ExportError(f"{what}: {_EXPECTED}, got nothing")
    # 2. Names are those of parameters, so nothing but text.
    if odd := [name for name in named if not isinstance(name, str)]:
        raise ExportError(
            f"{what}: the key {odd[0]!r} is no name of a parameter of forward"
        )
    # 3. Copies: the exporter resizes and runs them, and the user's stay as they are.
    places = [f"{what}[{number}]" for number in range(len(args))] + [
        f"{what}[{name!r}]" for name in named
    ]
    moved = [
        _moved(value, place)
        for value, place in zip([*args, *named.values()], places, strict=True)
    ]
    return Inputs(tuple(args), named).holding(moved)


def _moved(value: Any, place: str) -> Tensor:
    """A copy of one argument on the CPU; ExportError for what is no tensor or empty."""
    if not isinstance(value, Tensor):
        hint = (
            "leave it out, or set it inside the model: export takes Tensors only, positional ones and, in a dict, "
            "those by the name of their parameter"
        )
        raise ExportError(
            f"{place}: expected a Tensor, got {type(value).__name__}; {hint}"
        )
    if value.numel() == 0:
        raise ExportError(
            f"{place} of shape {list(value.shape)} is empty; give at least one sample"
        )
    # float32 like the weights of the copy; integers and truth values keep their types.
    copied = value.detach().cpu().clone()
    return copied.float() if copied.is_floating_point() else copied


@dataclass(frozen=True)
class Place:
    """Where a tensor goes in: its name, the parameter of forward, and its place in *args or **kwargs of that name."""

    name: str
    parameter: str
    within: int | str | None = None


def places(model: nn.Module, inputs: Inputs) -> list[Place]:
    """The places of all tensors, in the order of `inputs.tensors`; the model takes these arguments."""
    # Positions and names are bound in place of the tensors, so that what is bound tells which it is.
    count = len(inputs.args)
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind(
            *range(count), **{name: name for name in inputs.kwargs}
        ).arguments
    except (TypeError, ValueError):  # a forward that tells no signature
        return [Place(f"input_{n}", f"input_{n}") for n in range(count)] + [
            Place(n, n) for n in inputs.kwargs
        ]
    found: dict[int | str, Place] = {}
    for name, value in bound.items():
        found.update(_bound(signature.parameters[name], value))
    # Python binds in the order of the signature; ours is positional first, then as the dict has them.
    return [found[key] for key in (*range(count), *inputs.kwargs)]


def _bound(
    parameter: inspect.Parameter, value: Any
) -> Iterator[tuple[int | str, Place]]:
    """(position or keyword, place) of what was bound to a parameter."""
    name = parameter.name
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        yield from ((key, Place(f"{name}_{n}", name, n)) for n, key in enumerate(value))
    elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
        yield from ((key, Place(key, name, key)) for key in value)
    else:
        yield value, Place(name, name)
