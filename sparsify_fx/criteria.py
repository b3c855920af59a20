"""Criteria: a score for every weight; the highest scores stay.

A criterion is one function from `PruningContext` to scores. Register it with the inputs that it needs:

    @criterion("my-score", needs=("batches", "loss_fn"))
    def my_score(context: PruningContext) -> dict[str, Tensor]: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import RecipeError
from sparsify_fx.registry import Registry


@dataclass(frozen=True)
class PruningContext:
    """What a criterion may look at.

    Attributes:
        model: the model, plain or rewritten; not to be changed.
        weights: the effective weights by name, detached.
        generator: a CPU generator seeded from apply's seed and the cycle.
        batches: the (inputs, targets) pairs given to apply or Scheduler, or None.
        loss_fn: loss_fn(outputs, targets) -> scalar, or None.
    """

    model: nn.Module
    weights: Mapping[str, Tensor]
    generator: torch.Generator
    batches: Iterable[Any] | None = None
    loss_fn: Callable[[Any, Any], Tensor] | None = None


def pruning_context(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    seed: int,
    run: int = 0,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
) -> PruningContext:
    """The context of the pruning before a run; its generator depends on seed and run only, so a resumed run agrees."""
    return PruningContext(model, weights, torch.Generator().manual_seed(seed + 1_000_003 * run), batches, loss_fn)


Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Criterion:
    """A registered scoring function and the names of the context fields that it needs."""

    name: str
    scores: Callable[[PruningContext], Scores]
    needs: tuple[str, ...] = ()

    def check(self, batches: object, loss_fn: object) -> None:
        """Raise RecipeError when an input that the criterion needs was not given."""
        missing = [need for need in self.needs if {"batches": batches, "loss_fn": loss_fn}[need] is None]
        if missing:
            raise RecipeError(f"{self.name} needs {' and '.join(f'{name}=' for name in missing)}")


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(
    name: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[PruningContext], Scores]], Callable[[PruningContext], Scores]]:
    """Register a scoring function under `name`."""
    unknown_needs = set(needs) - {"batches", "loss_fn"}
    if unknown_needs:
        raise RecipeError(f"criterion {name!r} can need 'batches' and 'loss_fn', not {sorted(unknown_needs)}")

    def add(function: Callable[[PruningContext], Scores]) -> Callable[[PruningContext], Scores]:
        CRITERIA.add(name, Criterion(name, function, needs))
        return function

    return add


@criterion("magnitude")
def magnitude(context: PruningContext) -> Scores:
    """|θ|. Source: Han et al. 2015."""
    return {name: weight.abs() for name, weight in context.weights.items()}


@criterion("random")
def random(context: PruningContext) -> Scores:
    """Uniform in [0, 1), drawn on the CPU so that every device prunes the same weights."""
    return {
        name: torch.rand(weight.shape, generator=context.generator).to(weight.device)
        for name, weight in context.weights.items()
    }
