"""Second derivatives: formulas for activations whose kernels have none, and which module is to blame otherwise."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sparsify_fx.criteria.objective import plain_kernels
from sparsify_fx.errors import LayerError

_MISSING = ("is not implemented", "not differentiable", "does not support double backward", "once_differentiable")


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """F.hardsigmoid by its formula, relu6(x + 3) / 6."""
    value = torch.clamp(input + 3, 0, 6) / 6
    return input.copy_(value) if inplace else value


_FORMULAS: dict[Any, Callable[..., Tensor]] = {
    F.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid_: functools.partial(_hardsigmoid, inplace=True),
}


class _Formulas(TorchFunctionMode):
    """Calls the formulas in place of kernels without a second derivative, in modules and in functional code alike."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _FORMULAS.get(func, func)(*args, **(kwargs or {}))


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, inputs: Tensor, criterion: str) -> Iterator[None]:
    """Within it the model's activations have second derivatives wherever they exist.

    Raises LayerError in place of torch's error when one does not; it names the module.
    """
    try:
        with _Formulas():
            yield
    except RuntimeError as error:
        if not any(text in str(error) for text in _MISSING):
            raise
        raise LayerError(
            f"{criterion} needs second derivatives, and {_culprit(model, inputs)} has none ({_first_line(error)}); "
            "write it with differentiable operations, or use a criterion of first order such as snip"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(". ")


def _culprit(model: nn.Module, inputs: Tensor) -> str:
    """The innermost module that cannot be differentiated twice on the inputs it gets, or the loss."""
    calls: list[tuple[str, nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, _: calls.append((name, module, args, kwargs))

    copied = copy.deepcopy(model)
    # Hooks run when a module is done: inner modules come before those that hold them.
    hooks = [m.register_forward_hook(note(name), with_kwargs=True) for name, m in copied.named_modules()]
    with torch.no_grad(), plain_kernels(copied):
        copied(inputs)
        for hook in hooks:
            hook.remove()
        for name, module, args, kwargs in calls:
            if not _twice(module, args, kwargs):
                return f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
    return "the loss function"


def _twice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), _Formulas():
        outputs = module(*(leaf(value).clone() if isinstance(value, Tensor) else value for value in args), **kwargs)
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if not leaves or not isinstance(first, Tensor) or not first.requires_grad:
            return True
        try:
            inner = torch.autograd.grad(first.square().sum(), leaves, create_graph=True, allow_unused=True)
            moving = [value for value in inner if value is not None and value.requires_grad]
            if moving:
                torch.autograd.grad(moving, leaves, moving, allow_unused=True)
        except RuntimeError as error:
            return not any(text in str(error) for text in _MISSING)
    return True
