"""Occasion: what a timed action, or a penalty that adapts its strength, is told about the training at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsify_fx.randomness import seed_of


@dataclass(frozen=True)
class Occasion:
    """A moment of a training, between two optimizer steps.

    Attributes:
        run: the number of the run, 0 for the first.
        epoch: epochs of that run so far; whole for actions.
        seed: the seed of `apply`.
        length: epochs of the run.
        runs: runs (cycles) of the whole training.
        optimizers: those that the Scheduler was given; none outside of a Scheduler.
        accuracy: the last training accuracy given to `scheduler.observe`, in [0, 1], the mean over the ranks; None
            before the first.

    >>> Occasion(run=0, epoch=3, seed=0, length=12).progress
    0.25
    """

    run: int
    epoch: float
    seed: int
    length: int = 1
    runs: int = 1
    optimizers: Sequence[Any] = field(default=(), repr=False)
    accuracy: float | None = None

    @property
    def progress(self) -> float:
        """The share of the run that has passed, in [0, 1)."""
        return self.epoch / self.length

    @property
    def optimizer(self) -> Any:
        """The optimizer, or the first of several; None outside of a Scheduler."""
        return next(iter(self.optimizers), None)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for these random numbers alone: the same after a resume, another for every purpose."""
        # The seed is a hash of this text: other words would flip other signs in every run.
        text = f"{purpose} {self.seed} {self.run} {self.epoch}"
        return torch.Generator().manual_seed(seed_of(text, signed=True))
