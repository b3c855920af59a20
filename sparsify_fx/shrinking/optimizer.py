"""The state of optimizers, cut with their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.errors import LayerError
from sparsify_fx.shrinking.record import Kept, cut


def check_states(model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]) -> None:
    """Raise LayerError for state that cannot be cut: neither one number nor of its parameter's shape."""
    for name, parameter, state in _states(model, kept, optimizers):
        for key, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.numel() > 1
                and value.shape != parameter.shape
            ):
                raise LayerError(
                    f"{key!r} of {name} has the shape {tuple(value.shape)} in the optimizer, its parameter "
                    f"{tuple(parameter.shape)}; shrink without optimizer= and build a new one"
                )


def cut_states(model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]) -> None:
    """Cut what has the shape of its parameter; call it before the parameters are cut."""
    for name, parameter, state in _states(model, kept, optimizers):
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = cut(value, kept[name])


def _states(
    model: nn.Module, kept: Kept, optimizers: Sequence[Optimizer]
) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """(name, parameter, its state) of all parameters that are cut, tied ones once."""
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            if name in kept and parameter in optimizer.state:
                yield name, parameter, optimizer.state[parameter]
