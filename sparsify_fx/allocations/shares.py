"""Allocations by scores over the whole model, or in proportion to a share of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS, check_budget, proportional
from sparsify_fx.allocations.floors import Counts, Floored, raised
from sparsify_fx.masks import masks_of_counts, top_masks
from sparsify_fx.sharding import count


@ALLOCATIONS.register("global")
@dataclass(frozen=True)
class Global(Floored):
    """The highest scores of the whole model stay, wherever they are.

    Attributes:
        min_per_layer: see `Floored`.
    """

    def divide(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """Count of each layer's weights among the `kept` highest scores; ties by layer order, then index."""
        check_budget(capacity, kept)
        return _counted(top_masks(scores, kept))

    def choose(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, Tensor]:
        """The masks from one threshold; with layers below their floor, each layer's best by its count."""
        check_budget(capacity, kept)
        # One threshold gives all masks: counting first and choosing again would sort every layer once more.
        masks = top_masks(scores, kept)
        if self.min_per_layer is None:
            return masks
        floors = self.floors(
            {name: score.numel() for name, score in scores.items()}, kept
        )
        counts = _counted(masks)
        final = raised(self.divide, counts, (scores, capacity, kept), floors)
        # Where every layer was above its floor the masks are right already.
        return masks if final == counts else masks_of_counts(scores, final)


def _counted(masks: Mapping[str, Tensor]) -> Counts:
    return {name: count(mask) for name, mask in masks.items()}


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform(Floored):
    """Every layer has the same density.

    Attributes:
        min_per_layer: see `Floored`.
    """

    def divide(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """Share of layer i: its number of weights."""
        return proportional(
            {name: score.numel() for name, score in scores.items()}, capacity, kept
        )


@ALLOCATIONS.register("balanced")
@dataclass(frozen=True)
class Balanced(Floored):
    """Every layer has the same number of non-zeros; layers too small stay dense and the rest is redistributed.

    Attributes:
        min_per_layer: see `Floored`.

    Source: [Gadhikar 2023], as used by [Gadhikar 2024] and [Gadhikar 2025] for random masks.
    """

    def divide(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """Share of every layer: 1."""
        return proportional(dict.fromkeys(scores, 1), capacity, kept)


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel(Floored):
    """Density of layer i proportional to (n_out + n_in + k_h + k_w) / (n_out · n_in · k_h · k_w).

    Attributes:
        min_per_layer: see `Floored`.

    Source: [Evci 2020] (RigL), section 3.
    """

    def divide(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """Share of layer i: the sum of its weight's dimensions (density times size)."""
        return proportional(
            {name: sum(score.shape) for name, score in scores.items()}, capacity, kept
        )
