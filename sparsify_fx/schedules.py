"""Schedules: when the mask is set, and to which density.

Time is counted in runs (a run is one training of `epochs` epochs) and epochs within a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sparsify_fx.errors import RecipeError
from sparsify_fx.masks import kept_count
from sparsify_fx.registry import Registry


@dataclass(frozen=True)
class Pruning:
    """Prune to `kept` weights in all, at `epoch` of run number `run` (0 is the first)."""

    run: int
    epoch: float
    kept: int


@runtime_checkable
class Schedule(Protocol):
    """When to prune, and how far."""

    def initial(self, total: int, sparsity: float) -> int | None:
        """Weights kept from the start; None inserts no masks at all."""

    def prunings(self, total: int, sparsity: float) -> tuple[Pruning, ...]:
        """The prunings during training, in order; the last lands exactly on the requested sparsity."""

    def runs(self, sparsity: float) -> int:
        """How many training runs the whole schedule has."""


SCHEDULES: Registry[type[Any]] = Registry("schedule")


@SCHEDULES.register("never")
@dataclass(frozen=True)
class Never:
    """Dense training: no masks; the requested sparsity does not apply."""

    def initial(self, total: int, sparsity: float) -> int | None:
        """No masks."""
        return None

    def prunings(self, total: int, sparsity: float) -> tuple[Pruning, ...]:
        """None."""
        return ()

    def runs(self, sparsity: float) -> int:
        """One run."""
        return 1


@SCHEDULES.register("at-init")
@dataclass(frozen=True)
class AtInit:
    """Pruned before training, in `apply`; one run."""

    def initial(self, total: int, sparsity: float) -> int | None:
        """The final budget."""
        return kept_count(total, sparsity)

    def prunings(self, total: int, sparsity: float) -> tuple[Pruning, ...]:
        """None later."""
        return ()

    def runs(self, sparsity: float) -> int:
        """One run."""
        return 1


@SCHEDULES.register("one-shot")
@dataclass(frozen=True)
class OneShot:
    """One dense run, one pruning to the final sparsity, one run of retraining."""

    def initial(self, total: int, sparsity: float) -> int | None:
        """Dense at first."""
        return total

    def prunings(self, total: int, sparsity: float) -> tuple[Pruning, ...]:
        """One, at the start of the second run."""
        return () if sparsity == 0 else (Pruning(1, 0.0, kept_count(total, sparsity)),)

    def runs(self, sparsity: float) -> int:
        """Two runs, or one when nothing is to be pruned."""
        return 1 if sparsity == 0 else 2


@SCHEDULES.register("cycles")
@dataclass(frozen=True)
class Cycles:
    """Prune/retrain cycles: each keeps the fraction `keep` of the weights, the last lands on the requested sparsity.

    After cycle i of n = ⌈log(1 − sparsity) / log(keep)⌉, round(total · keepⁱ) weights are left.

    >>> [p.kept for p in Cycles(keep=0.8).prunings(1000, 0.5)]
    [800, 640, 512, 500]

    Source: paper 000, appendix A.3 (80 % of the remaining weights stay in each cycle).
    """

    keep: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise RecipeError(f"cycles: keep={self.keep!r} must be a fraction in (0, 1), for instance 0.8")

    def initial(self, total: int, sparsity: float) -> int | None:
        """Dense at first."""
        return total

    def prunings(self, total: int, sparsity: float) -> tuple[Pruning, ...]:
        """One at the start of every run after the first."""
        last = self.runs(sparsity) - 1
        final = kept_count(total, sparsity)
        steps = [max(final, kept_count(total, 1 - self.keep**i)) for i in range(1, last)]
        return tuple(Pruning(i, 0.0, kept) for i, kept in enumerate([*steps, final][:last], start=1))

    def runs(self, sparsity: float) -> int:
        """n + 1: the dense run and one for every pruning."""
        if sparsity == 0:
            return 1
        # A power of keep must not be taken for a little more than itself, which would add a cycle.
        return 1 + math.ceil(math.log(1 - sparsity) / math.log(self.keep) - 1e-9)
