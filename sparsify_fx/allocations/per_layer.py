"""A sparsity for each layer, given by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS, rounded
from sparsify_fx.errors import SparsityError


@ALLOCATIONS.register("per-layer")
@dataclass(frozen=True)
class PerLayer:
    """A sparsity for each layer, by the name of its weight; together they must meet the budget.

    On the way there, in cycles and gradual schedules, layer i has the density d_i^t, with the t that spends the budget.

    Attributes:
        sparsity: {name: fraction in [0, 1]}, one for every prunable weight; pairs do as well.

    >>> PerLayer({"fc2.weight": 0.5, "fc1.weight": 0.9}).sparsity
    (('fc1.weight', 0.9), ('fc2.weight', 0.5))
    """

    sparsity: Mapping[str, float] | tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        try:
            given = {
                str(name): float(value) for name, value in dict(self.sparsity).items()
            }
        except (TypeError, ValueError):
            given = {}
        if not given or not all(0 <= value <= 1 for value in given.values()):
            raise SparsityError(
                f"per-layer: sparsity={self.sparsity!r} must map names of weights to fractions in [0, 1], for instance "
                "{'fc1.weight': 0.9}"
            )
        # Sorted pairs: hashable, as frozen dataclasses are, and equal whatever the order in which they were written.
        object.__setattr__(self, "sparsity", tuple(sorted(given.items())))

    def check(self, shapes: Mapping[str, tuple[int, ...]], kept: int) -> None:
        """Raise SparsityError when layers are missing or unknown, or the sparsities do not meet the final budget."""
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        asked = sum(self._ideal(sizes).values(), Fraction(0))
        # Each layer's rounding may shift the sum by one weight; more than that is a contradiction.
        if abs(asked - kept) > len(sizes):
            raise SparsityError(
                f"per-layer sparsities keep {float(asked):.0f} weights, the requested sparsity {kept}; "
                f"make them agree: sparsity={float(1 - asked / sum(sizes.values())):.6g}"
            )

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """round((1 − s_i) · n_i), corrected to the budget by largest remainder; before the end n_i · d_i^t."""
        sizes = {name: score.numel() for name, score in scores.items()}
        ideal = self._ideal(sizes)
        # More than the end keeps: a pruning on the way. The same margin as in `check`.
        if kept > sum(ideal.values()) + len(ideal):
            return rounded(_on_the_way(ideal, sizes, kept), capacity, kept)
        self.check({name: tuple(score.shape) for name, score in scores.items()}, kept)
        return rounded(ideal, capacity, kept)

    def _ideal(self, sizes: Mapping[str, int]) -> dict[str, Fraction]:
        given = dict(self.sparsity)
        if set(given) != set(sizes):
            odd = sorted(set(given) ^ set(sizes))
            raise SparsityError(
                f"per-layer sparsity must name every prunable weight once; missing or unknown: {odd}"
            )
        return {
            name: (1 - Fraction(given[name])) * size for name, size in sizes.items()
        }


def _on_the_way(
    ideal: Mapping[str, Fraction], sizes: Mapping[str, int], kept: int
) -> dict[str, Fraction]:
    """n_i · d_i^t, by bisection for the t in [0, 1] that keeps `kept`; a layer that ends empty goes through 1/2."""
    # 0^t is 0 for every t > 0: an empty layer would jump there at once. Half a weight instead rounds to nothing at
    # t = 1 and falls smoothly before.
    density = {
        name: max(float(ideal[name] / size), 0.5 / size) for name, size in sizes.items()
    }
    low, high = 0.0, 1.0
    # 60 halvings of [0, 1] exhaust the 53 bits of a float.
    for _ in range(60):
        middle = (low + high) / 2
        if sum(size * density[name] ** middle for name, size in sizes.items()) > kept:
            low = middle
        else:
            high = middle
    return {
        # `high` never keeps more than the budget; `rounded` gives the few that are missing.
        name: Fraction(size * density[name] ** high)
        for name, size in sizes.items()
    }
