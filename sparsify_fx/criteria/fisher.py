"""Gradients of single samples, and the criterion of second order that looks at each weight alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad, vmap

from sparsify_fx.criteria.base import CRITERIA, Criterion, PruningContext, Scores
from sparsify_fx.criteria.objective import (
    Weights,
    gradient_of,
    is_recurrent,
    objective,
    scoring_batches,
)
from sparsify_fx.criteria.scoring_mode import in_mode
from sparsify_fx.distributed.ranks import sum_over_ranks
from sparsify_fx.errors import MethodError

_NEEDS = ("model", "batches", "loss_fn")


def sample_gradients(
    context: PruningContext, chunk: int, limit: int | None = None
) -> Iterator[Weights]:
    """Gradients of single samples, at most `chunk` at once and `limit` in all: [samples, *weight shape].

    By vmap; one by one when an operation of the model has no rule for it (recurrent layers and cells, some
    activations, custom functions), which takes longer.
    """
    assert context.model is not None
    left = limit
    # Recurrent kernels have no vmap rule: to try them would be in vain.
    each = _one_by_one if is_recurrent(context.model) else _all_at_once
    for inputs, targets in scoring_batches(context):
        if (
            not isinstance(targets, Tensor)
            or targets.ndim == 0
            or len(targets) != len(inputs)
        ):
            raise MethodError(
                "fisher, woodfisher and cap need targets that are a tensor with an entry for every input"
            )
        # Gradients of all samples of a batch at once would take batch size times the memory of the weights.
        for start in range(0, len(inputs), chunk):
            stop = min(
                start + chunk,
                len(inputs),
                start + chunk if left is None else start + left,
            )
            given = (context, inputs[start:stop], targets[start:stop])
            # Batch norm in training mode would mix the samples.
            with in_mode(context.model, "eval"):
                try:
                    gradients = each(*given)
                except RuntimeError as error:
                    # Memory that is short is no missing vmap rule: one by one would hide that `chunk` is too large.
                    if each is _one_by_one or isinstance(error, torch.OutOfMemoryError):
                        raise
                    # From now on: every chunk would fail in the same way after the same work.
                    each = _one_by_one
                    gradients = each(*given)
            yield gradients
            if left is not None:
                left -= stop - start
                if left == 0:
                    return


def _all_at_once(context: PruningContext, inputs: Tensor, targets: Tensor) -> Weights:
    def loss(weights: Weights, one: Tensor, target: Tensor) -> Tensor:
        # vmap takes the batch axis away, which models and losses expect.
        return objective(context, one.unsqueeze(0), target.unsqueeze(0))(weights)

    # Samples draw numbers of their own, as they would one by one; with "same" one dropout mask would serve them all.
    together: Any = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    with warnings.catch_warnings():
        # vmap falls back to a loop for some operations: slow, and right.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        gradients: Weights = together(dict(context.weights), inputs, targets)
    return gradients


def _one_by_one(context: PruningContext, inputs: Tensor, targets: Tensor) -> Weights:
    weights = dict(context.weights)
    pairs = zip(torch.split(inputs, 1), torch.split(targets, 1), strict=True)
    singles = [
        gradient_of(objective(context, one, target), weights) for one, target in pairs
    ]
    return {name: torch.stack([single[name] for single in singles]) for name in weights}


@CRITERIA.register("fisher")
@dataclass(frozen=True)
class Fisher:
    """½ θ² F_ii, with F_ii the mean of the squared gradients of single samples: the loss expected from removing θ.

    The model is in evaluation mode meanwhile: batch norm in training would mix the samples. Targets are a tensor with
    one entry for every sample. In a process group the mean is over the samples of all ranks.

    Attributes:
        chunk: samples whose gradients are held at once.

    Source: [LeCun 1990] (Optimal Brain Damage), with the empirical Fisher for the Hessian's diagonal.
    """

    chunk: int = 32
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise MethodError(
                f"fisher: chunk={self.chunk!r} must be a whole number >= 1, for instance 32"
            )

    def brief(self) -> tuple[Criterion, int]:
        """Itself, on two samples."""
        return self, 2

    def scores(self, context: PruningContext) -> Scores:
        """½ θ² F_ii."""
        # Sums and the number of samples travel apart, since ranks may hold different numbers of samples.
        squares, count = sum_over_ranks(
            "the squared gradients of fisher", lambda: self._squares(context)
        )
        return {
            name: 0.5 * context.weights[name].square() * squares[name] / count
            for name in squares
        }

    def _squares(self, context: PruningContext) -> tuple[Weights, int]:
        squares = {
            name: torch.zeros_like(weight) for name, weight in context.weights.items()
        }
        count = 0
        for gradients in sample_gradients(context, self.chunk):
            squares = {
                name: squares[name] + gradients[name].square().sum(0)
                for name in squares
            }
            count += len(next(iter(gradients.values())))
        return squares, count
