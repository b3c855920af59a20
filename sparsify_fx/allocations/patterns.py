"""N:M patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import nonzeros


@ALLOCATIONS.register("n:m")
@dataclass(frozen=True)
class NofM:
    """The n highest scores of every m consecutive inputs of an output unit stay (2:4 runs on sparse tensor cores).

    Inputs are consecutive along dimension 1 of the weight: input features, or input channels at one kernel position. A
    layer whose inputs m does not divide stays dense. The sparsity is decided by the pattern: ask for that one.

    Attributes:
        n, m: 1 <= n < m.

    Source: Mishra et al. 2021 (2:4); Zhou et al. 2021 (N:M).
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise SparsityError(
                f"n:m: n={self.n}, m={self.m} must be whole numbers with 1 <= n < m, for instance 2 and 4"
            )

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Non-zeros per layer under the pattern."""
        return {name: int(mask.sum(dtype=torch.int64)) for name, mask in self.masks(scores, kept).items()}

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The pattern's masks, if they keep exactly `kept` weights."""
        masks = {name: self._mask(score) for name, score in scores.items()}
        pattern, total = nonzeros(masks), sum(score.numel() for score in scores.values())
        if pattern != kept:
            raise SparsityError(
                f"{self.n}:{self.m} keeps {pattern} of these {total} weights, the request keeps {kept}; "
                f"ask for sparsity={1 - pattern / total!r}, or leave out layers with exclude="
            )
        return masks

    def _mask(self, score: Tensor) -> Tensor:
        if score.ndim < 2 or score.shape[1] % self.m:
            return torch.ones_like(score, dtype=torch.uint8)
        moved = score.detach().movedim(1, -1)
        groups = moved.reshape(*moved.shape[:-1], -1, self.m)
        # A stable sort breaks ties by index.
        best = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        chosen = torch.zeros_like(groups, dtype=torch.uint8).scatter_(-1, best, 1)
        return chosen.flatten(-2).movedim(-1, 1).contiguous()
