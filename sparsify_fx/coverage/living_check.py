"""The check that vectors of living entries get the gradients that whole factors get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from sparsify_fx.coverage.measure import difference, train
from sparsify_fx.errors import CoverageError
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import programs


def check_living(model: nn.Module, inputs: tuple[Any, ...], bound: float) -> None:
    """Gradients are within `bound` of the same where living entries alone are stored; CoverageError for others.

    Args:
        model: in full storage, with gradients of `inputs`, which are gone afterwards.
    """
    full: dict[str, Tensor] = {}
    for name, factor, tensor in _factors(model):
        if tensor.grad is not None:
            full[f"gradient of {name} ({factor})"] = tensor.grad
        # Taken and not copied: there are two for each weight of a model of gigabytes.
        tensor.grad = None
    StoreLiving()(model)
    try:
        train(model, inputs, backward=True)
        living: dict[str, Tensor] = {}
        owners = programs(model)
        for name, factor, tensor in _factors(model):
            if tensor.grad is not None:
                gradient = owners[name].restored(tensor.grad)
                living[f"gradient of {name} ({factor})"] = gradient
        found = difference(full, living) if full or living else 0.0
    finally:
        model.zero_grad(set_to_none=True)
        StoreFull()(model)
    if found > bound:
        raise CoverageError(f"gradients in living storage differ by {found:.1e}")


def _factors(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    for name, program in programs(model).items():
        for factor, tensor in program.factor_tensors().items():
            yield name, factor, tensor
