"""A twin of an optimizer over a small parameter of its own, whose state is recorded as it is made."""

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.optimizer_states.blocks import is_quantized
from sparsify_fx.optimizer_states.holders import Place, holders, wrapped
from sparsify_fx.randomness import undisturbed

# Implementations that need special devices; the state is the same without them.
_SWITCHES = {
    "fused": False,
    "foreach": False,
    "capturable": False,
    "differentiable": False,
    "compile": False,
}
# Some make part of their state in the second step.
_STEPS = 2
# Of the twin's parameter, where an optimizer was built with names.
_NAME = "parameter"
# Of making a step, the usual one first.
WAYS = ("plain", "graph", "closure")


class Recorder(dict[Any, Any]):
    """The state of the twin's parameter, with a copy of every value as it was when first set.

    Most optimizers make `torch.zeros_like(p)` first and mix the gradient in afterwards, in place: what is first set is
    what a new parameter starts from.
    """

    def __init__(self, known: Mapping[Any, Any]) -> None:
        super().__init__(known)
        self.first = {key: copied(value) for key, value in known.items()}

    def __setitem__(self, key: Any, value: Any) -> None:
        # None or 0 that becomes a tensor at the first step was a placeholder: the tensor is the first state.
        placeholder = not isinstance(self.first.get(key), Tensor) and isinstance(
            value, Tensor
        )
        if key not in self.first or placeholder:
            self.first[key] = copied(value)
        super().__setitem__(key, value)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of `dict`, which would not call `__setitem__`."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        """As of `dict`, which would not call `__setitem__`."""
        for key, value in dict(*others, **values).items():
            self[key] = value


def copied(value: Any) -> Any:
    """A copy that later changes in place do not reach."""
    if isinstance(value, Tensor):
        return value.dequantize() if is_quantized(value) else value.detach().clone()
    if isinstance(value, Mapping):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(copied(inner) for inner in value)
    if isinstance(value, (list, deque)):
        return [copied(inner) for inner in value]
    return value


def first_state(
    place: Place, parameter: nn.Parameter, gradient: float = 0.0
) -> dict[Any, Any]:
    """The state that the place's holder would make for the new parameter `parameter`, before it changes.

    Weight decay is off and the gradient is zero, so that a state that starts as a copy of the gradient starts at zero.
    The values of `parameter` stay. Empty where the optimizer cannot be built again from its options.

    Args:
        gradient: of every entry; some optimizers do nothing at all when all of it is zero.
    """
    return _record(place, parameter, gradient).first


def new_state(place: Place, parameter: nn.Parameter) -> dict[Any, Any]:
    """A state as the place's holder makes it, with objects of its classes, whatever is in them."""
    return dict(_record(place, parameter, 0.0))


def _record(place: Place, parameter: nn.Parameter, gradient: float) -> Recorder:
    with undisturbed(places(parameter.device)):
        # 1. An optimizer of the same class and options over this parameter alone.
        twin, holder = build_with_wrappers(place, parameter)
        if twin is None:
            return Recorder({})
        # 2. Recorders where it will put its state, under the parameter or under its name.
        recorders = [Recorder(holder.state.get(key, {})) for key in (parameter, _NAME)]
        holder.state[parameter] = recorders[0]
        if "param_names" in place.group:
            holder.state[_NAME] = recorders[1]
        value = parameter.detach().clone()
        # 3. Two steps, in whichever way it takes them.
        for way in WAYS:
            if all(
                _try_first(twin, parameter, value, gradient, way) for _ in range(_STEPS)
            ):
                break
        return recorders[0] if recorders[0] or not recorders[1] else recorders[1]


def _try_first(
    twin: Any, parameter: nn.Parameter, value: Tensor, gradient: float, way: str
) -> bool:
    done = try_step(twin, parameter, torch.full_like(value, gradient), way)
    with torch.no_grad():
        # Back: the second step must start from the same parameter, or copies would not be recognized.
        parameter.copy_(value)
    return done


def build_with_wrappers(place: Place, parameter: nn.Parameter) -> tuple[Any, Any]:
    """(a twin of the outermost optimizer, what in it stands for the place's holder); the holder alone, if need be."""
    twin = _build_outer(place.outer, place.group, parameter)
    inside, outside = (holders(twin) if twin is not None else []), holders(place.outer)
    # Only a twin with the same layers has one that stands for the place's holder.
    if [type(each) for each in inside] == [type(each) for each in outside]:
        return twin, inside[
            next(i for i, each in enumerate(outside) if each is place.holder)
        ]
    # The wrapper could not be built again, but the inner one alone may tell.
    twin = build_twin(place.holder, place.group, parameter)
    return twin, twin


def _build_outer(
    optimizer: Any, group: Mapping[str, Any], parameter: nn.Parameter
) -> Any:
    inner = wrapped(optimizer)
    if not inner:
        return build_twin(optimizer, group, parameter)
    options = _options(optimizer, getattr(optimizer, "__dict__", {}))
    with contextlib.suppress(Exception):
        return _in_training(
            type(optimizer)(_build_outer(inner[0], group, parameter), **options)
        )
    return None


def build_twin(
    holder: Any, group: Mapping[str, Any], parameter: nn.Parameter, **replaced: Any
) -> Any:
    """An optimizer of the same class and options over `parameter` alone; None where that does not work.

    Args:
        replaced: options to use in place of the holder's.
    """
    options = _options(holder, group)
    options |= {name: value for name, value in replaced.items() if name in options}
    # Options that optimizers read from groups only, such as Muon's switch between its two rules.
    extra = {
        key: value
        for key, value in group.items()
        if key not in options and isinstance(value, (bool, str))
    }
    given = [(_NAME, parameter)] if "param_names" in group else [parameter]
    first = (
        {"lr": rate}
        if (rate := getattr(holder, "defaults", {}).get("lr")) is not None
        and "lr" in options
        else {}
    )
    # Some refuse the rate 0, which a schedule may have now: the rate that it was built with is tried next.
    for rates in ({}, first):
        for own in ({}, extra):
            with contextlib.suppress(Exception):
                twin = type(holder)([{"params": given, **own}], **{**options, **rates})
                if isinstance(twin.state, Mapping) and twin.param_groups:
                    return _in_training(twin)
    return None


def _in_training(twin: Any) -> Any:
    # Schedule-free optimizers refuse to step in evaluation mode.
    if hasattr(twin, "train"):
        twin.train()
    return twin


def try_step(
    twin: Any, parameter: nn.Parameter, gradient: Tensor, way: str = "plain"
) -> bool:
    """One step of the twin; whether it went through.

    Args:
        way: "plain"; "graph" gives the gradient a graph, as optimizers that estimate curvature need; "closure" hands a
            function over that returns the loss.
    """
    parameter.grad = gradient.clone()
    if way == "graph":
        with torch.enable_grad():
            # Its gradient is `gradient`; the square with factor 0 gives it a graph to differentiate again.
            loss = (gradient * parameter).sum() + 0 * parameter.square().sum()
        (parameter.grad,) = torch.autograd.grad(loss, parameter, create_graph=True)
    try:
        if way == "closure":
            twin.step(lambda: gradient.sum())
        else:
            twin.step()
    # Whatever other people's code raises: the caller goes by what was recorded until then.
    except Exception:
        return False
    return True


def _options(holder: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the constructor, as they are in the group, in the object or in the defaults."""
    options: dict[str, Any] = {}
    for name in constructor_names(type(holder)):
        # A group's value counts before the object's, and that before the defaults.
        for source in (
            group,
            getattr(holder, "__dict__", {}),
            getattr(holder, "defaults", {}),
        ):
            if name in source:
                options[name] = copied(source[name])
                break
    for name, value in options.items():
        if name in _SWITCHES:
            options[name] = _SWITCHES[name]
        elif (
            "weight_decay" in name
            and isinstance(value, (int, float, Tensor))
            and not isinstance(value, bool)
        ):
            options[name] = 0.0
    return options


def constructor_names(cls: type) -> list[str]:
    """The names of the options in a class's constructor, beside the parameters themselves."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(cls).parameters.values())
    return [parameter.name for parameter in parameters[1:] if parameter.kind in kinds]


def places(device: torch.device) -> list[torch.device]:
    """The devices whose random states a trial on `device` may move, beside the CPU."""
    return [device] if device.type == "cuda" else []
