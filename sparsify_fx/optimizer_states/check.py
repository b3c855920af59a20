"""Which optimizers can be used: asked once, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import SchedulerError
from sparsify_fx.optimizer_states.fresh import small_parameter
from sparsify_fx.optimizer_states.holders import (
    Place,
    group_of,
    holders,
    is_optimizer,
    names_in,
    own_state,
    parameters_of,
    places,
)
from sparsify_fx.optimizer_states.layouts import entry_tensors, name_once
from sparsify_fx.optimizer_states.twin import first_state

_ELSEWHERE = "trains copies of the weights elsewhere, where masks do not reach: pruned weights would come back"
_BACKWARD = "updates weights within backward, where the Scheduler cannot keep pruned ones at zero"
# Classes that cannot be used, by name, since most come from packages that need not be installed: (why, what to do).
_REFUSED = {
    "CPUOffloadOptimizer": (
        _ELSEWHERE,
        "torchao.optim's 8-bit optimizers save memory too",
    ),
    "SafeFP16Optimizer": (_ELSEWHERE, "train float32 weights under torch.autocast"),
    "DeepSpeedZeroOptimizer": (
        _ELSEWHERE,
        "train with torch.optim under DistributedDataParallel",
    ),
    "SparseAdam": (
        "takes sparse gradients only, and those of pruned layers are dense",
        "take torch.optim.Adam",
    ),
    "LOMO": (_BACKWARD, "take an optimizer whose step() updates the weights"),
    "AdaLOMO": (_BACKWARD, "take an optimizer whose step() updates the weights"),
}


def check_supported(
    optimizers: Sequence[Any], parameters: Mapping[str, nn.Parameter]
) -> None:
    """SchedulerError for optimizers whose state cannot be kept right; a warning for what is right but not wholly fresh.

    Changes nothing. What it cannot see before the first step (a layout that depends on sizes) is checked again, before
    anything is written, when masks change.

    Args:
        optimizers: all of the training.
        parameters: the trainable tensors of weight programs, by name.

    Raises SchedulerError for something that is no optimizer, a parameter in two optimizers, optimizers that train
    copies of the weights, state under unknown names, quantized state of an unknown layout.
    """
    # From what is cheap and certain to what needs a trial: the first error is the one that explains the others.
    _check_kinds(optimizers)
    _check_owners(optimizers, parameters)
    check_layouts(optimizers, parameters.values())
    for optimizer in optimizers:
        for holder in holders(optimizer):
            _ask_layouts(optimizer, holder, parameters.values())


def check_layouts(
    optimizers: Sequence[Any], parameters: Iterable[nn.Parameter]
) -> None:
    """SchedulerError when state that is there cannot be kept right; call it before masks are written."""
    parameters = list(parameters)
    for optimizer in optimizers:
        for holder in holders(optimizer):
            _check_names(holder)
    for parameter in parameters:
        for place in places(optimizers, parameter):
            entry_tensors(place, parameter)


def _check_kinds(optimizers: Sequence[Any]) -> None:
    if not optimizers:
        raise SchedulerError("there is no optimizer; give one, or a list of several")
    for optimizer in optimizers:
        if not is_optimizer(optimizer):
            raise SchedulerError(
                f"{type(optimizer).__name__} is no optimizer: expected an object with param_groups, state and step(), "
                "such as those of torch.optim"
            )
        for part in holders(optimizer):
            # By the names of all base classes: the packages need not be installed, and subclasses are meant as well.
            for cls in type(part).__mro__:
                if cls.__name__ in _REFUSED:
                    why, remedy = _REFUSED[cls.__name__]
                    raise SchedulerError(f"{type(part).__name__} {why}; {remedy}")


def _check_owners(
    optimizers: Sequence[Any], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Each parameter in one optimizer: two of them would move it, and only one state can be right."""
    held: dict[int, int] = {}
    names = {id(parameter): name for name, parameter in parameters.items()}
    for number, optimizer in enumerate(optimizers):
        for parameter in parameters_of(optimizer):
            # By identity: parameters compare elementwise.
            other = held.setdefault(id(parameter), number)
            if other != number:
                name = names.get(
                    id(parameter), f"a parameter of shape {tuple(parameter.shape)}"
                )
                raise SchedulerError(
                    f"{name} is in two optimizers, number {other} ({type(optimizers[other]).__name__}) and number "
                    f"{number} ({type(optimizer).__name__}); give each parameter to one of them"
                )


def _check_names(holder: Any) -> None:
    """State under names is found by the names in the groups; without these it would be missed silently."""
    known = names_in(holder)
    shapes = {
        tuple(parameter.shape) for parameter in parameters_of(holder) if parameter.dim()
    }
    for key, value in own_state(holder).items():
        named = isinstance(key, str) and key not in known and isinstance(value, dict)
        tensors = (
            [each for inner, each in value.items() if not isinstance(inner, Tensor)]
            if named
            else []
        )
        if any(
            isinstance(each, Tensor) and tuple(each.shape) in shapes for each in tensors
        ):
            raise SchedulerError(
                f"{type(holder).__name__} keeps state under the name {key!r}, and sparsify_fx cannot tell of which "
                "parameter; build the optimizer with model.named_parameters(), so that its groups have param_names"
            )


def _ask_layouts(outer: Any, holder: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Look at the state that a small parameter would get, one for each number of axes, and at that which is there."""
    tried: set[tuple[int, torch.dtype]] = set()
    for parameter in parameters:
        group = group_of(holder, parameter)
        kind = (parameter.dim(), parameter.dtype)
        if group is None or kind in tried:
            continue
        tried.add(kind)
        # Layouts depend on the number of axes (Adafactor factors matrices alone), hardly on their sizes: three entries
        # along each are a trial of microseconds.
        small = small_parameter((3,) * parameter.dim() or (2,), parameter.dtype)
        asked = Place(outer, holder, group, {})
        asked = replace(asked, state=first_state(asked, small))
        entry_tensors(asked, small)
        name_once(asked, small)
        # State that is there already comes from a checkpoint, or from steps before the Scheduler was built.
        for place in places([outer], parameter):
            name_once(place, parameter)
