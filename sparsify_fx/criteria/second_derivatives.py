"""Second derivatives: formulas for activations whose kernels have none, and which module is to blame otherwise."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sparsify_fx.criteria.base import PruningContext
from sparsify_fx.criteria.objective import Loss, Weights, leaves_of, plain_kernels
from sparsify_fx.errors import LayerError

# How torch's messages say that a derivative is missing; it has no exception type of its own for that.
_MISSING = (
    "is not implemented",
    "not differentiable",
    "does not support double backward",
    "once_differentiable",
)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """F.hardsigmoid by its formula, relu6(x + 3) / 6."""
    value = torch.clamp(input + 3, 0, 6) / 6
    return input.copy_(value) if inplace else value


# A TorchFunctionMode sees each function as it was called: by modules, by functional code, and in place.
_FORMULAS: dict[Any, Callable[..., Tensor]] = {
    F.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid_: functools.partial(_hardsigmoid, inplace=True),
}


class _Formulas(TorchFunctionMode):
    """Calls the formulas in place of kernels without a second derivative, in modules and in functional code alike."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _FORMULAS.get(func, func)(*args, **(kwargs or {}))


def hessian_product(
    context: PruningContext,
    inputs: Tensor,
    loss: Loss,
    weights: Weights,
    direction: Weights,
    criterion: str,
) -> Weights:
    """H v at `weights`, H the Hessian of the loss on `inputs`: the derivative of the gradient's product with v.

    Raises LayerError where a second derivative does not exist; it names the module.
    """
    assert context.model is not None
    try:
        with torch.enable_grad(), _Formulas():
            return _product(loss, weights, direction)
    except RuntimeError as error:
        if not _about_derivatives(error):
            raise
        raise LayerError(
            f"{criterion} needs second derivatives, and {_culprit(context.model, inputs)} has none "
            f"({str(error).splitlines()[0].rstrip('. ')}); write it with differentiable operations, or use a criterion "
            "of first order such as snip"
        ) from error


def _product(loss: Loss, weights: Weights, direction: Weights) -> Weights:
    leaves = leaves_of(weights)
    tensors = list(leaves.values())
    # 1. The gradient, with a graph of its own.
    gradient = _gradient(loss(leaves), tensors)
    moving = [
        (part, v)
        for part, v in zip(gradient, direction.values(), strict=True)
        # Where the loss is linear in a weight, its gradient has no graph, and autograd would refuse it.
        if part.requires_grad
    ]
    # The loss is linear in all weights: H is zero.
    if not moving:
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    # 2. The derivative of gᵀv with respect to θ is H v: one more backward pass, and no Hessian in memory.
    parts, directions = zip(*moving, strict=True)
    products = torch.autograd.grad(
        parts, tensors, directions, allow_unused=True, materialize_grads=True
    )
    return dict(zip(weights, products, strict=True))


def _gradient(value: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient, as something to differentiate again.

    Raises RuntimeError for backward passes that autograd would silently take for constants in doing so.
    """
    # A custom function whose backward works on detached tensors gives constants, and its part of the second
    # derivative would be missing without any error. A hook on each such node looks at what it returns.
    opaque: list[str] = []
    for node in _nodes(value):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            node.register_hook(_note_constants(type(node).__name__, opaque))
    found = torch.autograd.grad(
        value, tensors, create_graph=True, allow_unused=True, materialize_grads=True
    )
    if opaque:
        raise RuntimeError(f"{opaque[0]} is not differentiable")
    # @once_differentiable puts a node called Error into the graph, which raises only once it is differentiated.
    kinds = {type(node).__name__ for node in itertools.chain(*map(_nodes, found))}
    if "Error" in kinds:
        raise RuntimeError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )
    return found


def _note_constants(name: str, opaque: list[str]) -> Callable[..., None]:
    """A hook of a node that notes its name when it returns a constant for a gradient that is none."""

    def hook(
        to_inputs: tuple[Tensor | None, ...], to_outputs: tuple[Tensor | None, ...]
    ) -> None:
        # Constants are right where the incoming gradient is one too, and zeros are whatever they depend on.
        varies = any(part is not None and part.requires_grad for part in to_outputs)
        constant = any(
            part is not None and not part.requires_grad and bool(part.any())
            for part in to_inputs
        )
        if varies and constant:
            opaque.append(name)

    return hook


def _nodes(value: Tensor) -> Iterator[Any]:
    """Every node of the graph that made `value`, once."""
    seen: set[Any] = set()
    # A list and not recursion: graphs of deep nets exceed Python's recursion limit.
    left = [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        left += [following for following, _ in node.next_functions]


def _about_derivatives(error: BaseException) -> bool:
    return any(text in str(error) for text in _MISSING)


def _culprit(model: nn.Module, inputs: Tensor) -> str:
    """The innermost module that cannot be differentiated twice on the inputs it gets, or the loss."""
    calls: list[tuple[str, nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, _: calls.append(
            (name, module, args, kwargs)
        )

    # A copy: the hooks below, and what a forward changes in buffers, stay out of the user's model.
    copied = copy.deepcopy(model)
    # Hooks run when a module is done: inner modules come before those that hold them.
    hooks = [
        m.register_forward_hook(note(name), with_kwargs=True)
        for name, m in copied.named_modules()
    ]
    with torch.no_grad(), plain_kernels(copied):
        copied(inputs)
        for hook in hooks:
            hook.remove()
        # The first that fails is the innermost: everything inside of it has passed before.
        for name, module, args, kwargs in calls:
            if not _twice(module, args, kwargs):
                return (
                    f"{name} ({type(module).__name__})"
                    if name
                    else f"the model ({type(module).__name__})"
                )
    return "the loss function"


def _twice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), _Formulas():
        outputs = module(
            *(
                leaf(value).clone() if isinstance(value, Tensor) else value
                for value in args
            ),
            **kwargs,
        )
        # Recurrent layers return (outputs, states), attention (outputs, weights).
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if not leaves or not isinstance(first, Tensor) or not first.requires_grad:
            return True
        try:
            moving = [
                part
                # Squared, so that a module which is linear has a second derivative to ask for as well.
                for part in _gradient(first.square().sum(), leaves)
                if part.requires_grad
            ]
            if moving:
                torch.autograd.grad(moving, leaves, moving, allow_unused=True)
        except RuntimeError as error:
            return not _about_derivatives(error)
    return True
