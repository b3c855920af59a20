"""Initializations: functions (model, generator) that overwrite the weights of a fresh model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import owners, program_of
from sparsify_fx.registry import Registry

Draw = Callable[[nn.Module, torch.Generator], None]


@dataclass(frozen=True)
class Initialization:
    """A way to draw the first weights.

    Attributes:
        draw: overwrites the weights of a model.
        after_apply: whether it needs the masks, so a model rewritten by `apply`; the others come before `apply`.
    """

    draw: Draw
    after_apply: bool = False

    def __call__(self, model: nn.Module, generator: torch.Generator) -> None:
        """Overwrite the weights in place; the generator is one of the CPU."""
        self.draw(model, generator)


INITIALIZATIONS: Registry[Initialization] = Registry("initialization")


def initialization(name: str, *, after_apply: bool = False) -> Callable[[Draw], Draw]:
    """Register a function (model, generator) under `name`."""

    def add(draw: Draw) -> Draw:
        INITIALIZATIONS.add(name, Initialization(draw, after_apply))
        return draw

    return add


@initialization("default")
def default(model: nn.Module, generator: torch.Generator) -> None:
    """Leave what the model's own constructor drew."""


@initialization("kaiming_normal")
def kaiming_normal(model: nn.Module, generator: torch.Generator) -> None:
    """Every convolution and linear weight from N(0, 2 / fan_in); biases and norms stay.

    >>> layer = nn.Linear(1000, 200)
    >>> kaiming_normal(layer, torch.Generator().manual_seed(0))
    >>> round(layer.weight.std().item(), 3)
    0.045

    Source: [He 2015]; [Gadhikar 2024], Table 1.
    """
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_in", nonlinearity="relu", generator=generator
            )


@initialization("xavier_normal")
def xavier_normal(model: nn.Module, generator: torch.Generator) -> None:
    """Every convolution and linear weight from N(0, 2 / (fan_in + fan_out)); biases and norms stay.

    >>> layer = nn.Linear(1000, 1000)
    >>> xavier_normal(layer, torch.Generator().manual_seed(0))
    >>> round(layer.weight.std().item(), 3)
    0.032

    Source: [Glorot 2010].
    """
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.xavier_normal_(module.weight, generator=generator)


@initialization("kaiming_sparse", after_apply=True)
def kaiming_sparse(model: nn.Module, generator: torch.Generator) -> None:
    """Every living weight from N(0, 2 / k), k the inputs that the mask leaves to its output unit; after `apply`.

    The signal keeps its size through a sparse net without batch norm, which the default initialization makes nearly
    untrainable. An output unit (a filter, a row) without inputs stays zero; pruned weights, biases and norms stay as
    they are. Any parameterization; without masks it is `kaiming_normal`. Drawn on the CPU: the same on every device.

    Raises MethodError for a model that `apply` has not rewritten.

    >>> import sparsify_fx
    >>> model = sparsify_fx.apply(nn.Linear(1000, 200), method="random", sparsity=0.9)
    >>> kaiming_sparse(model, torch.Generator().manual_seed(0))
    >>> round(model.weight[model.weight != 0].std().item(), 2)  # sqrt(2 / 100)
    0.14

    Source: [He 2015], with the fan-in of the mask; [Evci 2022].
    """
    found = False
    # In the order of the modules, with one draw for each weight: it depends on the generator alone.
    for _, owner, tensor in owners(model):
        found = True
        program = program_of(owner, tensor)
        theta = program.theta()
        mask = program.current_mask()
        living = torch.ones_like(theta) if mask is None else mask.to(theta.dtype)
        # All entries are drawn, also those that the mask hides: another mask then changes no other weight's number.
        noise = torch.randn(theta.shape, generator=generator, device="cpu").to(theta)
        # clamp(min=1) for units without inputs: their weights are all masked, and 2/0 would make NaN of them.
        program.write(
            noise * living * torch.sqrt(2 / kept_inputs(owner, living).clamp(min=1))
        )
    if not found:
        raise MethodError(
            "kaiming_sparse needs the masks: call sparsify_fx.apply(model, ...) before it"
        )


def kept_inputs(owner: nn.Module, mask: Tensor) -> Tensor:
    """How many weights the mask leaves to the output unit of each weight; broadcasts against the weight.

    Output units lie along dimension 0, in transposed convolutions along dimension 1 of each group's share.
    """
    if not (isinstance(owner, nn.modules.conv._ConvNd) and owner.transposed):
        return mask.sum(dim=tuple(range(1, mask.ndim)), keepdim=True)
    # [inputs, outputs / groups, ...] of a transposed convolution: inputs lie along dimension 0, group by group.
    parts = mask.reshape(owner.groups, -1, *mask.shape[1:])
    counts = parts.sum(dim=(1, *range(3, parts.ndim)), keepdim=True)
    return counts.expand_as(parts).reshape(mask.shape)
