"""The state of optimizers, and of those that they wrap, cut with their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.errors import LayerError
from sparsify_fx.optimizer_states.fresh import ask, small_parameter
from sparsify_fx.optimizer_states.holders import (
    Path,
    Place,
    holders,
    own_state,
    parameters_of,
    places,
    walk,
)
from sparsify_fx.shrinking.record import Kept, cut


def check_states(model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]) -> None:
    """Raise LayerError for state that cannot be cut: neither one number nor a value for each entry of its parameter."""
    for name, parameter, place in _places(model, kept, optimizers):
        for path, value in walk(place.state):
            if value.numel() > 1 and not _by_entry(place, parameter, path, value):
                raise LayerError(
                    f"{path[0]!r} of {name} has the shape {tuple(value.shape)} in the optimizer, its parameter "
                    f"{tuple(parameter.shape)}, and no value for each of its entries; shrink without optimizer= and "
                    "build a new one"
                )
    cut_ones = [p for name, p in model.named_parameters() if name in kept]
    for optimizer in optimizers:
        for holder in holders(optimizer):
            _check_flat(holder, cut_ones)


def check_trained(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Raise LayerError for optimizers of which none holds a parameter of the model."""
    own = {id(parameter) for parameter in model.parameters()}
    every = chain.from_iterable(map(holders, optimizers))
    held = list(chain.from_iterable(map(parameters_of, every)))
    if held and not any(id(parameter) in own for parameter in held):
        raise LayerError(
            f"the {type(optimizers[0]).__name__} holds no parameter of the model; give the optimizer that trains it, "
            "built after apply or merge, which replace parameters"
        )


def cut_states(model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]) -> None:
    """Cut what has the shape of its parameter; call it before the parameters are cut."""
    for name, parameter, place in _places(model, kept, optimizers):
        _cut_within(place.state, parameter, kept[name])


def _places(
    model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]
) -> Iterator[tuple[str, nn.Parameter, Place]]:
    """(name, parameter, where its state is) of all parameters that are cut, tied ones once."""
    for name, parameter in model.named_parameters():
        if name in kept:
            for place in places(optimizers, parameter):
                yield name, parameter, place


def _by_entry(place: Place, parameter: nn.Parameter, path: Path, value: Tensor) -> bool:
    """Whether a tensor of the state has a value for each entry of the parameter, where `_cut_within` finds it."""
    inner = place.state
    for key in path[:-1]:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or value.shape != parameter.shape:
        return False
    if parameter.dim() != 2 or len(set(parameter.shape)) > 1:
        return True
    # A preconditioner of a square matrix has its shape too: of another matrix it has not.
    shapes = ask(place, small_parameter((3, 2), parameter.dtype)).shapes
    return shapes.get(path, (3, 2)) == (3, 2)


def _check_flat(holder: Any, cut_ones: Sequence[nn.Parameter]) -> None:
    """Raise LayerError for state of all parameters in one row, as LBFGS keeps it under the first of them."""
    mine = parameters_of(holder)
    state = own_state(holder)
    if len(mine) < 2 or not {id(p) for p in mine} & {id(p) for p in cut_ones}:
        return
    total = sum(parameter.numel() for parameter in mine)
    for path, value in walk(state.get(mine[0], {})):
        if value.dim() == 1 and value.numel() == total:
            raise LayerError(
                f"{path[0]!r} of {type(holder).__name__} holds all parameters in one row; shrink without optimizer= "
                "and build a new one"
            )


def _cut_within(state: Any, parameter: Tensor, kept: Mapping[int, Tensor]) -> None:
    for key, value in list(state.items()):
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            state[key] = cut(value, kept)
        elif isinstance(value, dict):
            _cut_within(value, parameter, kept)
