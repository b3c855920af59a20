"""Criteria of second order, from the empirical Fisher information of single samples."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from sparsify_fx.numerics import widened

_NEEDS = ("model", "batches", "loss_fn")
# Inverted together: 80 MB in float64 for blocks of 50.
_BLOCKS_AT_ONCE = 4096


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
                "fisher and woodfisher need targets that are a tensor with an entry for every input"
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


@CRITERIA.register("woodfisher")
@dataclass(frozen=True)
class WoodFisher:
    """θ² / (2 [F⁻¹]_ii), with F = λI + (1/N) Σ g gᵀ block-diagonal: the loss after the best update of the block.

    The blocks of F are summed up and inverted in float64, which gives what the sample-by-sample Woodbury identity of
    the paper gives, without its rounding. Pruned weights take no part in F. Memory: 4 · block bytes per weight. The
    model is in evaluation mode meanwhile. Targets are a tensor with one entry for every sample. In a process group F is
    that of the samples of all ranks.

    Attributes:
        block: consecutive weights of a layer whose interactions count.
        damping: λ > 0, in units of the squared gradient.
        samples: the most samples to read, on each rank of a process group.
        chunk: samples whose gradients are held at once.

    Source: [Singh 2020], eq. 9 and 15; [Kuznedelev 2023] (CAP) for blocks of 50. Scores only: the weights
    that stay are not updated.
    """

    block: int = 50
    damping: float = 1e-5
    samples: int = 256
    chunk: int = 32
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        if self.block < 1 or self.samples < 1 or self.chunk < 1 or not self.damping > 0:
            raise MethodError(
                "woodfisher: block, samples and chunk must be >= 1 and damping > 0"
            )

    def brief(self) -> tuple[Criterion, int]:
        """Blocks of one weight, on two samples."""
        return replace(self, block=1), 2

    def scores(self, context: PruningContext) -> Scores:
        """θ² / (2 [F⁻¹]_ii)."""
        sums, count = sum_over_ranks(
            "the Fisher blocks of woodfisher", lambda: self._blocks(context)
        )
        return {
            # Popped, so that the blocks of one layer are freed before those of the next are inverted.
            name: self._score(weight, sums.pop(name) / count)
            for name, weight in context.weights.items()
        }

    def _blocks(self, context: PruningContext) -> tuple[Weights, int]:
        sums: dict[str, Tensor] = {}
        count = 0
        for gradients in sample_gradients(context, self.chunk, self.samples):
            for name, gradient in gradients.items():
                # Pruned weights take no part in F: an update of the block could not move them.
                alive = 1 if context.alive is None else context.alive[name]
                g = _blocks((gradient * alive).flatten(1), self.block)
                outer = torch.einsum("cni,cnj->nij", g, g)
                # In place: these sums are the largest tensors here, `block` times the weights.
                sums[name] = sums[name].add_(outer) if name in sums else outer
            count += len(next(iter(gradients.values())))
        return sums, count

    def _score(self, weight: Tensor, fisher: Tensor) -> Tensor:
        diagonals = []
        for part in torch.split(fisher, _BLOCKS_AT_ONCE):
            wide = widened(part)
            # Fewer samples than weights in a block make F singular; λI is what lets it be inverted at all.
            wide.diagonal(dim1=1, dim2=2).add_(self.damping)
            diagonals.append(torch.linalg.inv(wide).diagonal(dim1=1, dim2=2))
        inverse = (
            # The last block was padded with weights that do not exist; they are cut off again.
            torch.cat(diagonals).reshape(-1)[: weight.numel()].reshape(weight.shape)
        )
        return widened(weight).square() / (2 * inverse)


def _blocks(rows: Tensor, block: int) -> Tensor:
    """[samples, weights] -> [samples, blocks, block] in float32, the last block padded with zeros."""
    size = min(block, rows.shape[1])
    missing = -rows.shape[1] % size
    return torch.nn.functional.pad(rows.float(), (0, missing)).reshape(
        len(rows), -1, size
    )
