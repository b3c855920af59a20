"""Initialisations: functions (model, generator) that overwrite the weights of a fresh model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sparsify_fx.registry import Registry

Initialization = Callable[[nn.Module, torch.Generator], None]
INITIALIZATIONS: Registry[Initialization] = Registry("initialisation")


@INITIALIZATIONS.register("default")
def default(model: nn.Module, generator: torch.Generator) -> None:
    """Leave what the model's own constructor drew."""


@INITIALIZATIONS.register("kaiming_normal")
def kaiming_normal(model: nn.Module, generator: torch.Generator) -> None:
    """Every convolution and linear weight from N(0, 2 / fan_in); biases and norms stay.

    >>> layer = nn.Linear(1000, 200)
    >>> kaiming_normal(layer, torch.Generator().manual_seed(0))
    >>> round(layer.weight.std().item(), 3)
    0.045

    Source: He et al. 2015; paper 000, Table 1.
    """
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
