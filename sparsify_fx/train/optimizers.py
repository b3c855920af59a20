"""Optimizers by name, every class of `torch.optim` in lower case, or by import path."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.errors import ConfigError, PluginError, unknown
from sparsify_fx.plugins import if_a_module, imported, names_module
from sparsify_fx.programs.parameter_groups import ParameterGroups

# LBFGS calls the model itself, several times a step; SparseAdam takes sparse gradients only; Optimizer is the base.
_UNFIT = {"optimizer", "lbfgs", "sparseadam"}
# Taken from torch itself, so that the optimizers of a later version are there without a change here.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type)
    and issubclass(cls, Optimizer)
    and name.lower() not in _UNFIT
}


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of a name, or of an import path such as "package.module:Class".

    Raises UnknownNameError for another name, PluginError for a path that leads to no optimizer.
    """
    module, colon, _ = name.partition(":")
    if not colon or not names_module(module):
        if name not in OPTIMIZERS:
            told = unknown("optimizer", name, OPTIMIZERS)
            raise if_a_module(told) if colon else told
        return OPTIMIZERS[name]
    found = imported(name, "optimizer")
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise PluginError(f"{name} is no class of optimizers (torch.optim.Optimizer)")
    return found


def check_optimizer(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown optimizer, or an option that it does not have."""
    parameters = inspect.signature(optimizer_class(name)).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    known = set(parameters) - {"params"}
    for option in ("lr", *options):
        if option not in known:
            raise unknown(f"option of {name}", option, known)


def has_weight_decay(name: str) -> bool:
    """Whether the optimizer's class takes `weight_decay`; Rprop, for one, does not."""
    return "weight_decay" in inspect.signature(optimizer_class(name)).parameters


def default_weight_decay(name: str) -> float:
    """The weight decay of an optimizer that is given none: 0.01 for adamw, 0 for most."""
    if not has_weight_decay(name):
        return 0.0
    found = inspect.signature(optimizer_class(name)).parameters["weight_decay"].default
    return 0.0 if found is inspect.Parameter.empty else float(found)


def build_optimizer(
    parameters: Iterable[nn.Parameter] | ParameterGroups,
    name: str,
    lr: float,
    options: Mapping[str, Any],
) -> Optimizer:
    """The optimizer `name` over the trainable ones of `parameters`, or over groups with a weight decay of their own.

    Raises ConfigError when it refuses its options.

    >>> build_optimizer(nn.Linear(2, 2).parameters(), "sgd", 0.1, {"momentum": 0.9}).defaults["momentum"]
    0.9
    """
    check_optimizer(name, options)
    # torch keeps any key of a group without a word; with this one the checkpoint would name a decay that never falls.
    if isinstance(parameters, ParameterGroups):
        known = has_weight_decay(name)
        given: Any = [
            {k: v for k, v in group.items() if known or k != "weight_decay"}
            for group in parameters
        ]
    else:
        given = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        return optimizer_class(name)(given, lr=lr, **options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer {name} refuses lr={lr:g}, {dict(options)}: {error}"
        ) from error
