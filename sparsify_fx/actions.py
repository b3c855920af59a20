"""Timed actions: what happens at fixed epochs within every training run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import nn

from sparsify_fx.errors import RecipeError
from sparsify_fx.passes import Rescale
from sparsify_fx.registry import Registry


@runtime_checkable
class TimedAction(Protocol):
    """Something done to the model between two optimizer steps."""

    def epochs(self, run_epochs: int) -> list[int]:
        """The epochs of a run (0 is its start) after which it happens."""

    def __call__(self, model: nn.Module) -> None:
        """Do it, in place."""


ACTIONS: Registry[type[Any]] = Registry("action")


@ACTIONS.register("rescale")
@dataclass(frozen=True)
class RescaleEvery:
    """Restore m² − w² = β at the start of epoch i whenever i mod `every` = 0 and i < T2, for i = 1, 2, ...

    Attributes:
        every: p >= 1, in epochs.
        until: T2, in epochs of the run if an int, as a share of the run if a float in (0, 1].

    Source: paper 004, Algorithm 1; T2 in Table 7 (75 of 150 epochs on CIFAR, 75 of 100 on ImageNet, 225 of 300
    for DeiT).
    The paper leaves p open; 1 is our default.
    """

    every: int = 1
    until: int | float = 0.75

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise RecipeError(f"rescale: every={self.every!r} must be a number of epochs >= 1")
        share = isinstance(self.until, float)
        if isinstance(self.until, bool) or not (0 < self.until <= 1 if share else self.until >= 1):
            raise RecipeError(f"rescale: until={self.until!r} must be epochs (int >= 1) or a share (float in (0, 1])")

    def epochs(self, run_epochs: int) -> list[int]:
        """Epoch i of the algorithm starts after i − 1 epochs."""
        stop = self.until * run_epochs if isinstance(self.until, float) else self.until
        return [i - 1 for i in range(1, run_epochs + 1) if i % self.every == 0 and i < stop]

    def __call__(self, model: nn.Module) -> None:
        """Rescale every product of `model`."""
        Rescale()(model)


def action_label(action: Any) -> tuple[str, str]:
    """(name, options) for the timeline: ("rescale", "every=1, until=0.75")."""
    name = ACTIONS.name_of(type(action)) or type(action).__name__
    return name, ", ".join(f"{field.name}={getattr(action, field.name)}" for field in fields(action))
