"""Ids of channels, those that are joined, those that must stay, and what needs what: the algebra of removing channels.

Each layer gives its output channels fresh ids, and operators pass ids on. Where two meet, as in a sum, they are joined;
what is read by something that is not understood is pinned. Joined ids form classes, and a class goes or stays as a
whole. The passes over ONNX graphs and the groups of a torch model both work with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class Classes:
    """The ids given out so far, the pairs that are joined, and those that must stay."""

    count: int = 0
    _joined: list[tuple[Ids, Ids]] = field(default_factory=list)
    _pinned: list[Ids] = field(default_factory=list)

    def fresh(self, size: int) -> Ids:
        """Ids that no channel has yet, in order: [size]."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def join(self, first: Ids, second: Ids) -> None:
        """These channels stand and fall together, pair by pair."""
        self._joined.append((first, second))

    def pin(self, ids: Ids) -> None:
        """These channels stay, and so do those that they are joined with."""
        self._pinned.append(ids)

    def mark(self) -> tuple[int, int]:
        """How much is joined and pinned so far, for `back_to`."""
        return len(self._joined), len(self._pinned)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what was joined and pinned since; ids that were given out stay so."""
        del self._joined[mark[0] :], self._pinned[mark[1] :]

    def resolve(self) -> tuple[Ids, Mask]:
        """(the class of every id, whether each class must stay)."""
        # 1. Classes: connected components over the pairs that were joined. An id alone is one of its own.
        classes = np.arange(self.count)
        if self._joined:
            first, second = (
                np.concatenate(part) for part in zip(*self._joined, strict=True)
            )
            classes = _components(self.count, first, second)
        # 2. A class with one pinned member stays. `stays` is indexed by class, the smallest of its ids.
        stays = np.zeros(self.count, bool)
        for ids in self._pinned:
            stays[classes[ids]] = True
        return classes, stays


@dataclass(frozen=True)
class Edge:
    """A layer: the classes of its inputs and outputs, and where it really reads: [outputs, inputs]."""

    inputs: Ids
    outputs: Ids
    reads: Mask


def spread(edges: Sequence[Edge], stays: Mask) -> None:
    """Mark everything that what stays depends on, in place; quickest with the last layers first."""
    before = -1
    while (now := int(stays.sum())) != before:
        before = now
        for edge in edges:
            # [outputs that stay, inputs] -> inputs that any of them reads. Ids of one
            # class repeat, and assigning True twice does no harm.
            stays[edge.inputs[edge.reads[stays[edge.outputs]].any(axis=0)]] = True


def _components(count: int, first: Ids, second: Ids) -> Ids:
    """The smallest id that each id is connected with: label propagation over the pairs, vectorized.

    A union-find in Python would take a step for each pair, and every sum joins hundreds. Here each round takes
    the smaller label to both ends of every pair, then lets each label point to the label of its label; that halves the
    length of chains, so the rounds grow as their logarithm.
    """
    labels = np.arange(count)
    while True:
        smaller = np.minimum(labels[first], labels[second])
        # `minimum.at` takes an id that occurs in several pairs once for each; plain
        # indexing would keep the last only. It is the label that is lowered, and so all
        # ids that already have it.
        after = labels.copy()
        np.minimum.at(after, labels[first], smaller)
        np.minimum.at(after, labels[second], smaller)
        after = after[after]
        if np.array_equal(after, labels):
            return labels
        labels = after
