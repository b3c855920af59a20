"""Optimal brain surgeon in blocks of the Fisher information: `woodfisher` and `cap`.

A loss that is quadratic around a minimum rises by ½ (θ' − θ)ᵀ F (θ' − θ). The weights that stay can make up for those
that go; how much is lost then decides which go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_fx.criteria.base import (
    CRITERIA,
    Criterion,
    Masks,
    PruningContext,
    Scores,
    Update,
)
from sparsify_fx.criteria.block_fisher import BlockFisher, Sampling, block_fisher
from sparsify_fx.criteria.objective import Weights
from sparsify_fx.errors import MethodError
from sparsify_fx.registry import added_option

_UPDATES = ("none", "separate", "joint")


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
        update: what the pruning does to the weights of a block that stay, of which the set Q goes: "none"; "separate",
            as published, δ = −Σ_q θ_q F⁻¹e_q / [F⁻¹]_qq; "joint", −F⁻¹E_Q ([F⁻¹]_QQ)⁻¹ θ_Q, the best for all of Q.

    Source: [Singh 2020], eq. 9 and 15, section 4 for the update; [Kuznedelev 2023] (CAP) for blocks of 50.
    """

    block: int = 50
    damping: float = 1e-5
    samples: int = 256
    chunk: int = 32
    update: str = added_option("none")
    needs: ClassVar[tuple[str, ...]] = ("model", "batches", "loss_fn")

    def __post_init__(self) -> None:
        _check("woodfisher", self)
        if self.update not in _UPDATES:
            raise MethodError(
                f"woodfisher: update={self.update!r} must be one of {', '.join(map(repr, _UPDATES))}"
            )

    def brief(self) -> tuple[Criterion, int]:
        """Blocks of one weight, on two samples."""
        return replace(self, block=1), 2

    def scores(self, context: PruningContext) -> Scores:
        """θ² / (2 [F⁻¹]_ii)."""
        return _fisher("woodfisher", self, context).each(_alone, free=True)

    def scored(self, context: PruningContext) -> tuple[Scores, Update | None]:
        """The scores, and the update."""
        if self.update == "none":
            return self.scores(context), None
        fisher = _fisher("woodfisher", self, context)
        move = _separately if self.update == "separate" else _jointly

        def update(masks: Masks) -> Weights:
            return fisher.moved(masks, move)

        return fisher.each(_alone), update


@CRITERIA.register("cap")
@dataclass(frozen=True)
class CAP:
    """Weights go from each block one by one, those that stay make up for each; the score is the loss until then.

    ρ_i = Σ over the weights q that went up to i of θ_q² / (2 [F⁻¹]_qq), where θ and F⁻¹ are those after the removals
    before q, and q is each time the weight of least loss. Scores grow along the removals of a block, so a threshold
    takes the first of them, and the weights that stay are those that the removals left:
    θ_S + F_SS⁻¹ F_SQ θ_Q for the set Q that goes and S that stays.

    Attributes:
        block, damping, samples, chunk: as for `WoodFisher`; the published code has λ = 1e-7 and 1,024 samples, its
            recipes 1e-8, 4,096 samples and blocks of 192.

    Raises MethodError for numbers out of range, and for targets that are no tensor with an entry for every sample.

    Source: [Kuznedelev 2023], section 3.2 and its code.
    """

    block: int = 50
    damping: float = 1e-7
    samples: int = 1024
    chunk: int = 32
    needs: ClassVar[tuple[str, ...]] = ("model", "batches", "loss_fn")

    def __post_init__(self) -> None:
        _check("cap", self)

    def brief(self) -> tuple[Criterion, int]:
        """Blocks of one weight, on two samples."""
        return replace(self, block=1), 2

    def scores(self, context: PruningContext) -> Scores:
        """The loss of a block when the weight goes."""
        return _fisher("cap", self, context).each(_in_turn, free=True)

    def scored(self, context: PruningContext) -> tuple[Scores, Update | None]:
        """The scores, and the best update for all that goes."""
        fisher = _fisher("cap", self, context)

        def update(masks: Masks) -> Weights:
            return fisher.moved(masks, _jointly)

        return fisher.each(_in_turn), update


def _check(name: str, how: WoodFisher | CAP) -> None:
    if how.block < 1 or how.samples < 1 or how.chunk < 1 or not how.damping > 0:
        raise MethodError(
            f"{name}: block, samples and chunk must be >= 1 and damping > 0"
        )


def _fisher(name: str, how: WoodFisher | CAP, context: PruningContext) -> BlockFisher:
    sampling = Sampling(name, how.block, how.damping, how.samples, how.chunk)
    return block_fisher(context, sampling)


def _alone(weights: Tensor, fisher: Tensor) -> Tensor:
    """θ² / (2 [F⁻¹]_ii)."""
    inverse: Tensor = torch.linalg.inv(fisher)
    return weights.square() / (2 * inverse.diagonal(dim1=1, dim2=2))


def _in_turn(weights: Tensor, fisher: Tensor) -> Tensor:
    """The losses of `CAP`, summed up over the removals."""
    inverse, left = torch.linalg.inv(fisher), weights.clone()
    losses, total = torch.zeros_like(left), left.new_zeros(len(left))
    gone = torch.zeros_like(left, dtype=torch.bool)
    for _ in range(left.shape[1]):
        # 1. What goes next in each block. Zeros (pruned or padded) go first, and cost nothing.
        loss = left.square() / (2 * inverse.diagonal(dim1=1, dim2=2))
        least, next_ = loss.masked_fill(gone, torch.inf).min(1)
        total = total + least
        at = next_[:, None]
        losses.scatter_(1, at, total[:, None])
        # 2. The others make up for it, and F⁻¹ becomes that of the block without it.
        column = inverse.gather(2, at[:, None].expand(-1, left.shape[1], 1))[..., 0]
        pivot = column.gather(1, at)
        left = left - column * (left.gather(1, at) / pivot)
        gone = gone.scatter(1, at, True)
        left = left.masked_fill(gone, 0.0)
        inverse.baddbmm_(column[:, :, None], (column / pivot)[:, None, :], alpha=-1)
        # Rounding leaves a little where exactly nothing is; the next division must not find it.
        inverse.diagonal(dim1=1, dim2=2).masked_fill_(gone, 1.0)
    return losses


def _separately(weights: Tensor, fisher: Tensor, gone: Tensor, kept: Tensor) -> Tensor:
    """θ − Σ_q θ_q F⁻¹e_q / [F⁻¹]_qq."""
    inverse: Tensor = torch.linalg.inv(fisher)
    scaled = weights * gone / inverse.diagonal(dim1=1, dim2=2)
    return weights - (inverse @ scaled[..., None])[..., 0]


def _jointly(weights: Tensor, fisher: Tensor, gone: Tensor, kept: Tensor) -> Tensor:
    """θ_S + F_SS⁻¹ F_SQ θ_Q, which is θ − F⁻¹E_Q ([F⁻¹]_QQ)⁻¹ θ_Q on the weights that stay."""
    stays = kept.to(fisher.dtype)
    # Rows and columns that go become those of the identity: one system of the same size for every block.
    system = fisher * stays[:, :, None] * stays[:, None, :]
    system.diagonal(dim1=1, dim2=2).add_(1 - stays)
    right = stays * (fisher @ (weights * gone)[..., None])[..., 0]
    moved: Tensor = torch.linalg.solve(system, right[..., None])[..., 0]
    return weights + moved
