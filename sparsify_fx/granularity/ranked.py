"""How many weights are left when the worst groups go, without a mask being made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.errors import SparsityError

_FEW = 8  # of fewer channels any number is as good


@dataclass(frozen=True)
class Table:
    """The living weights of a tensor along the axes that groups slice, summed over the others."""

    groups: tuple[Ids, ...]
    living: NDArray[Any]

    def left(self, gone: NDArray[np.bool_]) -> int:
        """How many weights stay when these groups go: [groups] whether each does."""
        found = self.living
        # The last axis first, so that the places of the others stay.
        for ids in reversed(self.groups):
            found = found @ (~gone[ids]).astype(np.float64)
        return round(float(found))


def table_of(living: Tensor, axes: Mapping[int, Ids]) -> Table:
    """The table of a tensor of booleans, for {axis: the group of each slice}."""
    order = sorted(axes)
    others = tuple(axis for axis in range(living.ndim) if axis not in axes)
    summed = living.sum(others) if others else living.long()
    # Doubles, whose products are fast and count exactly up to 2^53.
    return Table(tuple(axes[axis] for axis in order), summed.double().numpy())


def unit_bounds(count: int, multiple: int) -> list[tuple[int, int]]:
    """(start, end) of the units in which `count` groups go, so that a multiple is left, or at most 8; one stays.

    >>> unit_bounds(14, 4)
    [(0, 2), (2, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11), (11, 12), (12, 13)]
    """
    ends = [k for k in range(1, count) if (count - k) % multiple == 0 or count - k <= _FEW]  # fmt: skip
    return list(zip([0, *ends[:-1]], ends, strict=False))


def ranked_of(units: Sequence[Sequence[int]], tables: Mapping[str, Table]) -> Ranked:
    """The groups of these units, one after the other."""
    order: list[int] = []
    ends = [0]
    for unit in units:
        order += unit
        ends.append(len(order))
    return Ranked(np.array(order, np.int64), tables, tuple(ends))


@dataclass(frozen=True)
class Ranked:
    """The groups that may go, the worst first, and the tables of all tensors; `ends`: after how many one may stop."""

    order: Ids
    tables: Mapping[str, Table]
    ends: tuple[int, ...]

    def removed(self, kept: int) -> Ids:
        """The fewest groups without which at most `kept` weights are left; SparsityError where all are too few."""
        gone = self._fewest(self.left, kept)
        if (left := self.left(gone)) > kept:
            raise SparsityError(
                f"{left} weights are in channels that must stay, or in the last one of their layers; {kept} were asked "
                "for: ask for less sparsity"
            )
        return gone

    def most_within(self, cost: Callable[[dict[str, int]], Any], most: int) -> int:
        """The most weights that stay when groups go until the cost is at most `most`; 0 where all are too few."""
        counts = self._counts(self._fewest(lambda r: cost(self._counts(r)), most))
        return sum(counts.values()) if cost(counts) <= most else 0

    def _fewest(self, measure: Callable[[Ids], Any], most: int) -> Ids:
        """The shortest beginning of the order that brings the measure down to `most`; all of it where none does."""
        low, high = 0, len(self.ends) - 1
        while low < high:
            middle = (low + high) // 2
            if measure(self.order[: self.ends[middle]]) <= most:
                high = middle
            else:
                low = middle + 1
        return self.order[: self.ends[low]]

    def left(self, removed: Ids) -> int:
        """How many weights stay without these groups."""
        return sum(self._counts(removed).values())

    def counts(self, kept: int) -> dict[str, int]:
        """How many of each tensor stay within the budget."""
        return self._counts(self.removed(kept))

    def _counts(self, removed: Ids) -> dict[str, int]:
        highest = [int(self.order.max(initial=0))]
        for table in self.tables.values():
            highest += [int(ids.max(initial=0)) for ids in table.groups]
        gone = np.zeros(max(highest) + 1, bool)
        gone[removed] = True
        return {name: table.left(gone) for name, table in self.tables.items()}
