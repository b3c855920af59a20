"""Blocks of a weight as a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.granularity.reductions import Totals, check_reduction, fewest_removed
from sparsify_fx.masks import nonzeros
from sparsify_fx.sharding import shard, whole


@dataclass(frozen=True)
class Blocks:
    """Blocks of rows × columns stay or go as a whole, those with the highest scores in all layers together.

    A weight [rows, ...] is seen as a matrix of that many rows; blocks at its borders may be smaller. At most `kept`
    weights stay, within one block of it.

    Attributes:
        rows, columns: the size of a block.
        reduction: "l2", "sum", "max" or "mean" over the scores of a block's weights; "relative": l2 by its root mean
            square over the living blocks of the layer.
    """

    rows: int = 32
    columns: int = 1
    reduction: str = "mean"

    whole_groups = True
    pattern_axes = (0, 1)  # as of n:m: axes along which the pattern runs

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        if min(self.rows, self.columns) < 1:
            raise MethodError(
                f"block:{self.rows}x{self.columns}: expected two numbers of at least 1, such as block:32x1"
            )

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """Non-zeros of each layer under these blocks."""
        masks = self.choose(scores, capacity, kept)
        return {name: nonzeros({name: mask}) for name, mask in masks.items()}

    def choose(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, Tensor]:
        """The masks; SparsityError where not even one block fits."""
        own, scores = scores, {name: whole(score) for name, score in scores.items()}
        blocks = {name: self._blocks(score) for name, score in scores.items()}
        totals = Totals(sum(len(part) for part in blocks.values()))
        layers, start = [], 0
        for part in blocks.values():
            layers.append(np.arange(start, start + len(part)))
            totals.add(part, layers[-1])
            start += len(part)
        order = np.argsort(totals.scores(self.reduction, layers), kind="stable")
        gone = fewest_removed(
            order, lambda removed: totals.living.sum() - totals.living[removed].sum(), kept
        )  # fmt: skip
        if gone == len(order):
            raise SparsityError(
                f"no block of {self.rows}x{self.columns} fits into {kept} weights; ask for less sparsity"
            )
        stays = torch.ones(len(order), dtype=torch.uint8)
        stays[torch.from_numpy(order[:gone])] = 0
        parts = torch.split(stays, [len(part) for part in blocks.values()])
        return {
            name: shard(self._mask(part, scores[name]), own[name])
            for name, part in zip(blocks, parts, strict=True)
        }

    def least(self, scores: Mapping[str, Tensor]) -> int:
        """The smallest number of weights that can be left: one block."""
        return min(self.rows * self.columns, sum(s.numel() for s in scores.values()))

    def _grid(self, shape: torch.Size) -> tuple[int, int, int, int]:
        """(rows, columns) of the matrix, and blocks along each."""
        rows = shape[0]
        columns = math.prod(shape[1:])
        return rows, columns, -(-rows // self.rows), -(-columns // self.columns)

    def _blocks(self, score: Tensor) -> Tensor:
        """[blocks, entries of each]; −inf beyond the borders."""
        rows, columns, down, across = self._grid(score.shape)
        matrix = score.detach().reshape(rows, columns)
        missing = (0, across * self.columns - columns, 0, down * self.rows - rows)
        filled = functional.pad(matrix, missing, value=-torch.inf)
        cut = filled.reshape(down, self.rows, across, self.columns).transpose(1, 2)
        return cut.reshape(down * across, -1)

    def _mask(self, stays: Tensor, score: Tensor) -> Tensor:
        rows, columns, down, across = self._grid(score.shape)
        grid = stays.to(score.device).reshape(down, across)
        matrix = grid.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        mask = matrix[:rows, :columns].reshape(score.shape)
        # A block whose weights are pruned in part keeps those that live.
        return mask.masked_fill(torch.isneginf(score), 0).contiguous()
