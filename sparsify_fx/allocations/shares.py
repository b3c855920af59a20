"""Allocations by scores over the whole model, or in proportion to a share of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS, check_budget, proportional
from sparsify_fx.masks import top_mask


@ALLOCATIONS.register("global")
@dataclass(frozen=True)
class Global:
    """The highest scores of the whole model stay, wherever they are."""

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Count of each layer's weights among the `kept` highest scores; ties by layer order, then index."""
        check_budget(capacity, kept)
        flat = torch.cat([score.detach().reshape(-1).to(torch.float64) for score in scores.values()])
        sizes = [score.numel() for score in scores.values()]
        parts = torch.split(top_mask(flat, kept), sizes)
        return {name: int(part.sum(dtype=torch.int64)) for name, part in zip(scores, parts, strict=True)}


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every layer has the same density."""

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of layer i: its number of weights."""
        return proportional({name: score.numel() for name, score in scores.items()}, capacity, kept)


@ALLOCATIONS.register("balanced")
@dataclass(frozen=True)
class Balanced:
    """Every layer has the same number of non-zeros; layers too small stay dense and the rest is redistributed.

    Source: Gadhikar et al. 2023, as used by papers 000 and 004 for random masks.
    """

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of every layer: 1."""
        return proportional(dict.fromkeys(scores, 1), capacity, kept)


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel:
    """Density of layer i proportional to (n_out + n_in + k_h + k_w) / (n_out · n_in · k_h · k_w).

    Source: Evci et al. 2020 (RigL), section 3.
    """

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of layer i: the sum of its weight's dimensions (density times size)."""
        return proportional({name: sum(score.shape) for name, score in scores.items()}, capacity, kept)
