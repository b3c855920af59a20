"""N:M patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS
from sparsify_fx.allocations.shares import Global
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import masks_of_counts, nonzeros
from sparsify_fx.sharding import count, part, shard


@ALLOCATIONS.register("n:m")
@dataclass(frozen=True)
class NofM:
    """The n highest scores of every m consecutive inputs of an output unit stay (2:4 runs on sparse tensor cores).

    Inputs are consecutive along dimension 1 of the weight as [outputs, inputs of each, ...]: input features, or input
    channels at one kernel position; weights of other layouts (transposed convolutions) are seen so. A layer whose
    inputs m does not divide stays dense. The sparsity is decided by the pattern: ask for that one. While a schedule
    keeps more weights on its way there, the best of the others, in all layers together, stay too.

    Attributes:
        n, m: 1 <= n < m.

    Source: [Mishra 2021] (2:4); [Zhou 2021] (N:M).
    """

    n: int = 2
    m: int = 4

    # Of [outputs, inputs]: where those that lose slices break the pattern up.
    pattern_axes = (1,)

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise SparsityError(
                f"n:m: n={self.n}, m={self.m} must be whole numbers with 1 <= n < m, for instance 2 and 4"
            )

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """Non-zeros per layer under the pattern."""
        return {name: count(mask) for name, mask in self.masks(scores, kept).items()}

    def check(self, shapes: Mapping[str, tuple[int, ...]], kept: int) -> None:
        """Raise SparsityError unless the pattern keeps exactly `kept` weights."""
        total = sum(math.prod(shape) for shape in shapes.values())
        pattern = sum(
            math.prod(shape) // self.m * self.n
            if self._fits(shape)
            else math.prod(shape)
            for shape in shapes.values()
        )
        if pattern != kept:
            raise SparsityError(
                f"{self.n}:{self.m} keeps {pattern} of these {total} weights, the request keeps {kept}; "
                f"ask for sparsity={1 - pattern / total!r}, or leave out layers with exclude="
            )

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The pattern's masks; with more to keep, the best of the other weights too. SparsityError with fewer."""
        # The groups of an output lie in one shard: shards are whole outputs.
        masks = {
            name: shard(self._mask(part(score, score)), score)
            for name, score in scores.items()
        }
        # The pattern alone decides a number of weights; a schedule asks for more of them on its way there.
        more = kept - nonzeros(masks)
        # `check` gives the error that names the sparsity to ask for; it does not come back from here.
        if more < 0:
            self.check(
                {name: tuple(score.shape) for name, score in scores.items()}, kept
            )
        if more > 0:
            others = {
                name: score.masked_fill(masks[name] == 1, -torch.inf)
                for name, score in scores.items()
            }
            free = {name: count(other > -torch.inf) for name, other in others.items()}
            # The others compete over all layers: the pattern is going to take them away in any case.
            added = masks_of_counts(others, Global().counts(others, free, more))
            masks = {name: mask | added[name] for name, mask in masks.items()}
        return masks

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) >= 2 and shape[1] % self.m == 0

    def _mask(self, score: Tensor) -> Tensor:
        # A process may hold no row of a small weight.
        if not self._fits(score.shape) or not score.numel():
            return torch.ones_like(score, dtype=torch.uint8)
        # Groups must be consecutive in memory to become an axis: channels come last, one kernel position at a time.
        moved = score.detach().movedim(1, -1)
        groups = moved.reshape(*moved.shape[:-1], -1, self.m)
        # A stable sort breaks ties by index.
        best = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        chosen = torch.zeros_like(groups, dtype=torch.uint8).scatter_(-1, best, 1)
        return chosen.flatten(-2).movedim(-1, 1).contiguous()
