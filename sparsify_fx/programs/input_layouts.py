"""Input layouts: where in a weight the inputs of an output unit lie, whatever kind of module owns it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sparsify_fx.programs.owner_kinds import kind_of
from sparsify_fx.programs.owners import owners, qualified


@dataclass(frozen=True)
class InputLayout:
    """A weight as [outputs, inputs of each, ...]: the usual one of linear layers and convolutions, made from others.

    Attributes:
        transposed: the weight is [inputs, outputs, ...], as that of transposed convolutions and transformers' Conv1D.
        groups: of a transposed convolution: its inputs and its outputs fall into so many groups that do not meet.
        unflattened: the shape that each row holds flat, as [outputs, inputs, ...]; for mixtures of kernels.

    >>> import torch
    >>> InputLayout(transposed=True, groups=2).standard(torch.zeros(8, 3, 5)).shape
    torch.Size([6, 4, 5])
    """

    transposed: bool = False
    groups: int = 1
    unflattened: tuple[int, ...] = ()

    def standard(self, weight: Tensor) -> Tensor:
        """The weight as [outputs, inputs of each, ...]."""
        # Of mixtures of kernels each row is a kernel, flat: all of their outputs stand below each other.
        if self.unflattened:
            return weight.reshape(-1, *self.unflattened[1:])
        return self._swapped(weight) if self.transposed else weight

    def back(self, standard: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of `standard`: scores or a mask in the shape of the weight itself."""
        if self.unflattened:
            return standard.reshape(shape)
        return self._swapped(standard).contiguous() if self.transposed else standard

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that `standard` gives to a weight of this shape."""
        if self.unflattened:
            return (
                math.prod(shape) // math.prod(self.unflattened[1:]),
                *self.unflattened[1:],
            )
        return (
            (shape[1] * self.groups, shape[0] // self.groups, *shape[2:])
            if self.transposed
            else shape
        )

    def _swapped(self, weight: Tensor) -> Tensor:
        """[g · a, b, ...] -> [g · b, a, ...] with g groups; its own inverse."""
        return (
            # Groups stay outermost, since inputs of one meet the outputs of the same one alone.
            weight.reshape(self.groups, -1, *weight.shape[1:])
            .transpose(1, 2)
            .flatten(0, 1)
        )


USUAL = InputLayout()
Layouts = Mapping[str, InputLayout]


def layout_of(owner: nn.Module) -> InputLayout:
    """The layout of an owner's weights, which its kind decides; the usual one for modules of no kind.

    >>> layout_of(nn.ConvTranspose2d(8, 6, 3, groups=2))
    InputLayout(transposed=True, groups=2, unflattened=())
    """
    kind = kind_of(owner)
    return USUAL if kind is None else InputLayout(**kind.layout(owner))


def input_layouts(model: nn.Module) -> dict[str, InputLayout]:
    """The layouts of all rewritten weights by name; a tied weight has that of its first owner."""
    found: dict[str, InputLayout] = {}
    for name, owner, tensor in owners(model):
        found.setdefault(qualified(name, tensor), layout_of(owner))
    return found
