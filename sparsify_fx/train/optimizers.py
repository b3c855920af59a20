"""Optimizers by name: every class of `torch.optim` in lower case."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.errors import ConfigError, unknown

# LBFGS calls the model itself, SparseAdam takes sparse gradients only.
_UNFIT = {"optimizer", "lbfgs", "sparseadam"}
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and name.lower() not in _UNFIT
}


def check_optimizer(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown optimizer, or an option that it does not have."""
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    known = set(inspect.signature(OPTIMIZERS[name]).parameters) - {"params"}
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)


def build_optimizer(parameters: Iterable[nn.Parameter], name: str, lr: float, options: Mapping[str, Any]) -> Optimizer:
    """The optimizer `name` over the trainable ones of `parameters`; ConfigError when it refuses its options.

    >>> build_optimizer(nn.Linear(2, 2).parameters(), "sgd", 0.1, {"momentum": 0.9}).defaults["momentum"]
    0.9
    """
    check_optimizer(name, options)
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        return OPTIMIZERS[name](trainable, lr=lr, **options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {name} refuses lr={lr:g}, {dict(options)}: {error}") from error
