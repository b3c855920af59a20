"""Whole channels that come back: their rows begin with values, since coupled zeros have no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.criteria import PruningContext
from sparsify_fx.programs.program import WeightProgram

Masks = Mapping[str, Tensor]
Woken = Mapping[str, tuple[Tensor, Tensor]]


@runtime_checkable
class Waking(Protocol):
    """An allocation in coupled groups."""

    def regrown(
        self, weights: Masks, masks: Masks, wanted: Masks, fraction: float
    ) -> dict[str, Tensor]:
        """The masks when this fraction of the living groups of each width has moved."""

    def woken(
        self,
        weights: Masks,
        before: Masks,
        after: Masks | None,
        generator: torch.Generator,
    ) -> Woken:
        """{weight: (values, where)} with which groups begin that come back; all dead ones where `after` is None."""


def write_woken(found: Mapping[str, WeightProgram], woken: Woken) -> None:
    """Give these weights their first values, where their masks let them live."""
    for name, (values, where) in woken.items():
        program = found[name]
        mask = program.current_mask()
        assert mask is not None
        program.write(values, where=where.to(mask.device) & (mask == 1))


def awake(context: PruningContext, alive: Masks, allocation: Waking) -> PruningContext:
    """The context with weights in which dead channels have rows already, so that their columns have gradients."""
    # A copy of it, so that what the criterion draws stays the same.
    generator = torch.Generator()
    generator.set_state(context.generator.get_state())
    weights = dict(context.weights)
    for name, (values, where) in allocation.woken(weights, alive, None, generator).items():  # fmt: skip
        weights[name] = torch.where(where.to(weights[name].device), values, weights[name])  # fmt: skip
    return replace(context, weights=weights)
