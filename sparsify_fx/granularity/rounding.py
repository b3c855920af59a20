"""Channels in multiples of a number: kernels compute 8 or 16 at once, and runtimes are slow at what is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsify_fx.coupling.classes import Ids


@dataclass(frozen=True)
class Rounding:
    """How many groups of each width may stay: a multiple of its step, the nearest one, and at least one step.

    A width that loses nothing keeps what it has.

    Attributes:
        families: the groups of each width, the worst first.
        steps: for each width; 1 rounds nothing.
    """

    families: tuple[Ids, ...] = ()
    steps: tuple[int, ...] = ()

    def __call__(self, removed: Ids) -> Ids:
        """The groups to remove instead of these, which are the worst of each width; more where more are given."""
        if not self.families:
            return removed
        highest = max(int(family.max()) for family in self.families)
        gone = np.zeros(highest + 1, bool)
        gone[removed] = True
        rounded = [
            family[: self._count(len(family), int(gone[family].sum()), step)]
            for family, step in zip(self.families, self.steps, strict=True)
        ]
        return np.concatenate(rounded)

    def _count(self, total: int, removed: int, step: int) -> int:
        if removed == 0:
            return 0
        nearest = (2 * (total - removed) + step) // (2 * step) * step
        # A width below one step stays whole.
        return total - min(max(nearest, step), total)


NONE = Rounding()


def rounding_of(
    multiple: int,
    worst_first: Sequence[Ids],
    members: Mapping[str, Mapping[int, Ids]],
) -> Rounding:
    """The rounding to this multiple of channels; a group of several channels, such as a head, counts as so many."""
    if multiple == 1:
        return NONE
    sizes = _channels_of(members, max(int(family.max()) for family in worst_first) + 1)
    steps = (multiple // math.gcd(multiple, int(sizes[f[0]])) for f in worst_first)
    return Rounding(tuple(worst_first), tuple(steps))


def _channels_of(members: Mapping[str, Mapping[int, Ids]], count: int) -> Ids:
    """[count]: the fewest slices that any tensor has of each group; 1 for one that is in none."""
    absent = np.iinfo(np.int64).max
    fewest = np.full(count, absent)
    for axes in members.values():
        for ids in axes.values():
            found = np.bincount(ids, minlength=count)[:count]
            fewest = np.where(found > 0, np.minimum(fewest, found), fewest)
    return np.where(fewest == absent, 1, fewest)
