"""Which layer feeds which, found by running the model once and following what autograd recorded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import MethodError


@dataclass(frozen=True)
class Wire:
    """One layer in its net.

    Attributes:
        before: the layers whose outputs reach it without another layer in between, over norms, activations, sums and
            skips.
        first: whether the input of the model reaches it so.
        last: whether it reaches an output of the model so.
        inputs, outputs: units (channels or features), of all groups.
        groups: inputs and outputs fall into so many groups that do not meet.
    """

    before: tuple[str, ...]
    first: bool
    last: bool
    inputs: int
    outputs: int
    groups: int


def wiring(
    model: nn.Module, weights: Collection[str], inputs: Tensor, purpose: str
) -> dict[str, Wire]:
    """The layers that own these weights, by the names of the weights, in the order in which they run.

    The model runs once, in the mode it is in; nothing of it changes in evaluation mode.

    Args:
        purpose: who asks, for errors.

    Layers before that have other units (padded shortcuts) are left out.

    Raises MethodError for layers other than linear ones and convolutions, layers that run several times or not at
    all, and units that are not those of any layer before (or several positions of each, as after flattening).
    """
    layers = {name: _layer(model, name, purpose) for name in weights}
    entered, left = _run(model, layers, inputs, purpose)
    of_output = {function: name for name, function in left.items()}
    ends, _ = _sources(entered.pop(""), of_output)
    found = {}
    for name in left:
        before, first = _sources(entered[name], of_output)
        layer = layers[name]
        groups = int(getattr(layer, "groups", 1))
        rows, columns = layer.weight.shape[:2]  # type: ignore[index]
        wire = Wire(before, first, name in ends, columns * groups, rows, groups)
        found[name] = wire
    return {name: _fitting(name, found, layers, purpose) for name in found}


def _fitting(
    name: str, found: dict[str, Wire], layers: dict[str, nn.Module], purpose: str
) -> Wire:
    """The wire without the layers before it that have other units, such as shortcuts with padded channels."""
    wire = found[name]
    before = [each for each in wire.before if found[each].outputs == wire.inputs]
    # Flattened channels have several features each; between layers of one kind a multiple is something else.
    if not before and isinstance(layers[name], nn.Linear):
        before = [
            source
            for source in wire.before
            if not isinstance(layers[source], nn.Linear)
            and wire.inputs % found[source].outputs == 0
        ]
    if wire.before and not before and not wire.first:
        source = wire.before[0]
        raise MethodError(
            f"{purpose}: {name} has {wire.inputs} inputs, {source} before it {found[source].outputs} outputs; "
            "layers must feed each other whole, without concatenation or reordering of channels"
        )
    return replace(wire, before=tuple(before))


def _layer(model: nn.Module, name: str, purpose: str) -> nn.Module:
    prefix, _, kind = name.rpartition(".")
    module = model.get_submodule(prefix)
    known = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if kind != "weight" or not known:
        raise MethodError(
            f"{purpose} walks over linear layers and convolutions, {name} is of {type(module).__name__}; leave it out "
            "with exclude="
        )
    return module


def _run(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Tensor, purpose: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What autograd knows of the input of each layer, and of "" the model's output; and of each layer's output."""
    entered: dict[str, Any] = {}
    left: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def record(
            module: nn.Module, given: tuple[Tensor, ...], output: Tensor
        ) -> None:
            if name in left:
                raise MethodError(
                    f"{purpose}: {name} runs several times in one forward"
                )
            entered[name], left[name] = given[0].grad_fn, output.grad_fn

        return record

    handles = [m.register_forward_hook(hook(name)) for name, m in layers.items()]
    try:
        with torch.enable_grad():
            # Its own operation, so that layers at the input have something before them that is no layer.
            outputs = model(inputs.detach().clone().requires_grad_() * 1)
    finally:
        for handle in handles:
            handle.remove()
    idle = [name for name in layers if name not in left]
    if idle:
        raise MethodError(f"{purpose}: {idle[0]} does not run in a forward")
    if not isinstance(outputs, Tensor):
        raise MethodError(
            f"{purpose} needs a model that returns one tensor, this one returns {type(outputs).__name__}"
        )
    entered[""] = outputs.grad_fn
    return entered, left


def _sources(function: Any, of_output: dict[Any, str]) -> tuple[tuple[str, ...], bool]:
    """The layers whose outputs lead to `function` without another one between, and whether the input does."""
    found: dict[str, None] = {}
    waiting, seen, first = [function], set[Any](), False
    while waiting:
        now = waiting.pop()
        if now is None or now in seen:
            continue
        seen.add(now)
        if now in of_output:
            found[of_output[now]] = None
            continue
        variable = getattr(now, "variable", None)
        # Of all leaves the input alone is no parameter.
        first = first or (
            variable is not None and not isinstance(variable, nn.Parameter)
        )
        waiting += [before for before, _ in now.next_functions]
    return tuple(sorted(found)), first
