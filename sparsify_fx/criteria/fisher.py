"""Criteria of second order, from the empirical Fisher information of single samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import grad, vmap

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.criteria.objective import Weights, objective, scoring_batches
from sparsify_fx.errors import RecipeError

_NEEDS = ("model", "batches", "loss_fn")


def sample_gradients(context: PruningContext, chunk: int) -> Iterator[Weights]:
    """Gradients of single samples, [chunk, *weight shape], by vmap over grad.

    The model is in evaluation mode meanwhile: batch norm must not mix the samples.
    """
    model = context.model
    assert model is not None
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for inputs, targets in scoring_batches(context):
            for start in range(0, len(inputs), chunk):
                yield _gradients(context, inputs[start : start + chunk], targets[start : start + chunk])
    finally:
        for module in training:
            module.training = True


def _gradients(context: PruningContext, inputs: Tensor, targets: Tensor) -> Weights:
    def loss(weights: Weights, one: Tensor, target: Tensor) -> Tensor:
        return objective(context, one.unsqueeze(0), target.unsqueeze(0))(weights)

    each: Any = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    gradients: Weights = each(dict(context.weights), inputs, targets)
    return gradients


@CRITERIA.register("fisher")
@dataclass(frozen=True)
class Fisher:
    """½ θ² F_ii, with F_ii the mean of the squared gradients of single samples: the loss expected from removing θ.

    Attributes:
        chunk: samples whose gradients are held at once.

    Source: LeCun et al. 1990 (Optimal Brain Damage), with the empirical Fisher for the Hessian's diagonal.
    """

    chunk: int = 32
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def scores(self, context: PruningContext) -> Scores:
        """½ θ² F_ii."""
        squares = {name: torch.zeros_like(weight) for name, weight in context.weights.items()}
        count = 0
        for gradients in sample_gradients(context, self.chunk):
            squares = {name: squares[name] + gradients[name].square().sum(0) for name in squares}
            count += len(next(iter(gradients.values())))
        return {name: 0.5 * context.weights[name].square() * squares[name] / count for name in squares}


@CRITERIA.register("woodfisher")
@dataclass(frozen=True)
class WoodFisher:
    """θ² / (2 [F⁻¹]_ii), with F = λI + (1/N) Σ g gᵀ block-diagonal: the loss after the best update of the block.

    F⁻¹ is built sample by sample with the Woodbury identity: F⁻¹ -= (F⁻¹g)(F⁻¹g)ᵀ / (N + gᵀF⁻¹g). Memory:
    4 · block bytes per weight.

    Attributes:
        block: consecutive weights of a layer whose interactions count.
        damping: λ > 0, in units of the squared gradient.
        samples: N, the most samples to read.
        chunk: samples whose gradients are held at once.

    Source: Singh & Alistarh 2020, eq. 9 and 15; Kuznedelev et al. 2024 (CAP) for blocks of 50. Scores only: the weights
    that stay are not updated.
    """

    block: int = 50
    damping: float = 1e-5
    samples: int = 256
    chunk: int = 32
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        if self.block < 1 or self.samples < 1 or self.chunk < 1 or not self.damping > 0:
            raise RecipeError("woodfisher: block, samples and chunk must be >= 1 and damping > 0")

    def scores(self, context: PruningContext) -> Scores:
        """θ² / (2 [F⁻¹]_ii)."""
        total = sum(len(inputs) for inputs, _ in scoring_batches(context))
        count = min(total, self.samples)
        inverse = {name: self._start(weight) for name, weight in context.weights.items()}
        seen = 0
        for gradients in sample_gradients(context, self.chunk):
            for i in range(min(len(next(iter(gradients.values()))), count - seen)):
                for name, gradient in gradients.items():
                    self._update(inverse[name], gradient[i], count)
                seen += 1
            if seen == count:
                break
        return {name: self._score(weight, inverse[name]) for name, weight in context.weights.items()}

    def _start(self, weight: Tensor) -> Tensor:
        block = min(self.block, weight.numel())
        blocks = -(-weight.numel() // block)
        eye = torch.eye(block, dtype=torch.float32, device=weight.device) / self.damping
        return eye.repeat(blocks, 1, 1)

    @staticmethod
    def _update(inverse: Tensor, gradient: Tensor, count: int) -> None:
        g = _blocks(gradient, inverse)
        u = torch.einsum("nij,nj->ni", inverse, g)
        scale = count + torch.einsum("ni,ni->n", g, u)
        inverse -= torch.einsum("ni,nj->nij", u, u / scale[:, None])

    @staticmethod
    def _score(weight: Tensor, inverse: Tensor) -> Tensor:
        diagonal = torch.diagonal(inverse, dim1=1, dim2=2)
        score = _blocks(weight, inverse).square() / (2 * diagonal)
        return score.reshape(-1)[: weight.numel()].reshape(weight.shape)


def _blocks(tensor: Tensor, inverse: Tensor) -> Tensor:
    """The entries as [blocks, block], padded with zeros."""
    count, block, _ = inverse.shape
    flat = tensor.detach().reshape(-1).float()
    return torch.nn.functional.pad(flat, (0, count * block - flat.numel())).reshape(count, block)
