"""What a penalty is, and what one whose strength changes during training may look at."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.registry import Registry
from sparsify_fx.schedules.occasion import Occasion


@runtime_checkable
class Penalty(Protocol):
    """A differentiable scalar of the weight programs.

    Attributes:
        without_decay (optional): groups of `sparsify_fx.parameter_groups` that it decays itself, so that the weight
            decay of the optimizer does not fall on them by default.
    """

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """The term to add to the loss (0-dimensional)."""


@dataclass(frozen=True)
class Observation:
    """What the Scheduler shows to a penalty that adapts its strength.

    Attributes:
        epoch: epochs of the current run so far (a fraction between epochs).
        epochs: T, the length of the run.
        progress: share of the way to the final pruning, in [0, 1]; of the run when there is none.
        sparsity: the requested sparsity if the method has to reach it by itself (schedule `late`), else None.
        near_zero: share of the prunable weights that are near zero; see `near_zero_share`.
        norm: ‖θ‖₂ of all prunable weights, as a fraction of what it was when training began.
        l1: Σabs(θ) over all prunable weights.
        kept_l1: Σabs(θ) over as many weights as will stay, the largest ones, when training began.
        accuracy: training accuracy of the last epoch as given to `scheduler.observe`, or None.
        occasion: the run and its length, the optimizers, the last accuracy of all; not a part of a checkpoint, so that
            the Observation `before` may be without.
    """

    epoch: float
    epochs: int
    progress: float
    sparsity: float | None
    near_zero: float
    norm: float
    l1: float
    kept_l1: float
    accuracy: float | None
    occasion: Occasion | None = field(default=None, repr=False, compare=False)


@runtime_checkable
class AdaptivePenalty(Protocol):
    """A penalty whose strength the Scheduler holds and changes by the penalty's own rule.

    With `every_epoch` it adapts after every epoch, under all schedules; without, 1000 times on the way to the final
    pruning (or after every step of a shorter way), and only if the method has to reach the sparsity by itself.
    """

    every_epoch: ClassVar[bool]

    @property
    def strength(self) -> float:
        """The level at the start of every run."""

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """The term to add to the loss, with `strength` (0-dimensional) in place of its own."""

    def adapt(
        self, level: float, before: Observation | None, now: Observation
    ) -> tuple[float, float]:
        """(new level, strength that is applied until the next time); `before` is None at the first time of a run."""


PENALTIES: Registry[type[Any]] = Registry("penalty")


@PENALTIES.register("none")
@dataclass(frozen=True)
class NoPenalty:
    """Nothing is added."""

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """0, on the device of the weights."""
        first = next(iter(programs), None)
        return (
            torch.zeros((), device="cpu")
            if first is None
            else torch.zeros((), device=next(first.parameters()).device)
        )


def check_strength(name: str, strength: float, example: str = "1e-4") -> None:
    """MethodError unless `strength` is a finite number >= 0."""
    if not (math.isfinite(strength) and strength >= 0):
        raise MethodError(
            f"{name}: strength={strength!r} must be >= 0, for instance {example}"
        )


def kept_entries(program: WeightProgram, tensor: Tensor) -> Tensor:
    """A factor times the mask: pruned entries count nothing and get no gradient. Where they are not stored, itself."""
    mask = program.factor_mask()
    # The factors under a mask get no gradient from the loss, and must not get one from the penalty either.
    return tensor if mask is None else tensor * mask
