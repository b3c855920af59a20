"""From the scores of a group's weights to one score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsify_fx.errors import MethodError

RELATIVE = "relative"
REDUCTIONS = (RELATIVE, "l2", "sum", "max", "mean")
Numbers = NDArray[np.float64]


def check_reduction(name: str) -> None:
    """Raise MethodError for another name."""
    if name not in REDUCTIONS:
        raise MethodError(
            f"reduction={name!r}: the score of a group is one of {', '.join(REDUCTIONS)} over its weights"
        )


@dataclass
class Totals:
    """Sums over the living weights of each group, tensor by tensor."""

    count: int
    sums: Numbers = field(init=False)
    squares: Numbers = field(init=False)
    signed: Numbers = field(init=False)
    largest: Numbers = field(init=False)
    living: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.sums, self.squares, self.signed, self.living = np.zeros((4, self.count))
        self.largest = np.full(self.count, -np.inf)

    def add(self, slices: Tensor, groups: NDArray[np.int64]) -> None:
        """Add [slices, entries] scores, of which slice i belongs to groups[i]; −inf is a weight that is pruned."""
        dead = torch.isneginf(slices)
        scores = slices.detach().double().masked_fill(dead, 0.0)
        np.add.at(self.sums, groups, scores.sum(1).cpu().numpy())
        np.add.at(self.squares, groups, scores.square().sum(1).cpu().numpy())
        np.add.at(self.signed, groups, (scores * scores.abs()).sum(1).cpu().numpy())
        np.add.at(self.living, groups, (~dead).sum(1).cpu().numpy())
        largest = slices.detach().double().amax(1).cpu().numpy()
        np.maximum.at(self.largest, groups, largest)

    def scores(
        self, reduction: str, beside: Iterable[NDArray[np.int64]] = ()
    ) -> Numbers:
        """The score of each group; −inf for one without living weights.

        Args:
            beside: the groups that "relative" compares with each other.
        """
        found = {
            "l2": np.sqrt(self.squares),
            # Scores below 0, which some criteria give, count against a group: squares alone would count for it.
            RELATIVE: np.sign(self.signed) * np.sqrt(np.abs(self.signed)),
            "sum": self.sums,
            "max": self.largest,
            "mean": self.sums / np.maximum(self.living, 1),
        }[reduction]
        if reduction == RELATIVE:
            for groups in beside:
                alive = groups[self.living[groups] > 0]
                usual = np.sqrt(np.square(found[alive]).sum() / max(1, len(alive)))
                # Where all are zero none is above the others.
                found[groups] /= usual or 1.0
        return np.where(self.living > 0, found, -np.inf)


def fewest_removed(order: NDArray[np.int64], left: object, kept: int) -> int:
    """How many of the groups, the worst first, must go so that at most `kept` weights are left: by bisection."""
    assert callable(left)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if left(order[:middle]) <= kept:
            high = middle
        else:
            low = middle + 1
    return low
