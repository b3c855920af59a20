"""How many weights are left when the worst groups go, without a mask being made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.errors import SparsityError
from sparsify_fx.granularity.reductions import fewest_removed
from sparsify_fx.granularity.rounding import NONE, Rounding


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
            found = found @ (~gone[ids]).astype(np.int64)
        return int(found)


def table_of(living: Tensor, axes: Mapping[int, Ids]) -> Table:
    """The table of a tensor of booleans, for {axis: the group of each slice}."""
    order = sorted(axes)
    others = tuple(axis for axis in range(living.ndim) if axis not in axes)
    summed = living.sum(others) if others else living.long()
    return Table(tuple(axes[axis] for axis in order), summed.numpy())


@dataclass(frozen=True)
class Ranked:
    """The groups that may go, the worst first, and the tables of all tensors."""

    order: Ids
    tables: Mapping[str, Table]
    rounding: Rounding = NONE

    def removed(self, kept: int) -> Ids:
        """The fewest groups without which at most `kept` weights are left; SparsityError where all are too few."""

        def left_of(first: Ids) -> int:
            return self.left(self.rounding(first))

        fewest = fewest_removed(self.order, left_of, kept)
        gone = self.rounding(self.order[:fewest])
        if (left := self.left(gone)) > kept:
            raise SparsityError(
                f"{left} weights are in channels that must stay, or in the last one of their layers; {kept} were asked "
                "for: ask for less sparsity"
            )
        return gone

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
