"""Which channels of which values stand and fall together.

Each layer gives its output channels fresh ids. Operators pass ids on: a ReLU gives its output the ids of its input, a
concatenation puts two rows of ids one after the other. Where two ids meet, as in a sum, they are joined. A channel that
something reads which is not understood is pinned. In the end the joined ids form classes, and a class goes or stays as
a whole, in every value that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView

Array = NDArray[Any]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Track:
    """The channels of a value: its axis, its rank, and the id of each channel.

    Channels with the same id, or with joined ids, can only be removed together.
    """

    axis: int
    rank: int
    ids: Ids

    @property
    def size(self) -> int:
        """The number of channels, removed ones included."""
        return int(self.ids.size)


@dataclass(frozen=True)
class Reading:
    """A layer that mixes channels: output o reads input c where `nonzero[o, c]`.

    `inputs` is None where the layer reads a value without tracked channels. `folds_any`: a constant input of any value
    can move into the bias, not only zero.
    """

    node: onnx.NodeProto
    inputs: Ids | None
    outputs: Ids
    nonzero: Mask
    folds_any: bool


@dataclass
class Spaces:
    """All tracked values of a graph, the ids that are joined, and those that must stay (`pinned`)."""

    view: GraphView
    shapes: dict[str, Shape]
    tracks: dict[str, Track] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    count: int = 0
    _joined: list[tuple[Ids, Ids]] = field(default_factory=list)
    _pinned: list[Ids] = field(default_factory=list)
    _weights: dict[str, list[tuple[str, Ids | None, Ids]]] = field(default_factory=dict)

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

    def pin_value(self, name: str) -> None:
        """All channels of a value stay."""
        if name in self.tracks:
            self.pin(self.tracks[name].ids)

    def put(self, name: str, axis: int, rank: int, ids: Ids) -> None:
        """Track the channels of a value."""
        self.tracks[name] = Track(axis, rank, ids)

    def use_weight(
        self, name: str, role: str, inputs: Ids | None, outputs: Ids
    ) -> None:
        """Note how a layer slices its weight: all layers that share one must slice it alike."""
        self._weights.setdefault(name, []).append((role, inputs, outputs))

    def resolve(self) -> tuple[Ids, Mask]:
        """(the class of every id, whether each class must stay)."""
        # 1. Shared weights come last, when all their layers are known.
        for name, uses in self._weights.items():
            self._share(name, uses)
        # 2. Classes: connected components over the pairs that were joined. An id alone is one of its own.
        classes = np.arange(self.count)
        if self._joined:
            first, second = (
                np.concatenate(part) for part in zip(*self._joined, strict=True)
            )
            classes = _components(self.count, first, second)
        # 3. A class with one pinned member stays. `stays` is indexed by class, the smallest of its ids.
        stays = np.zeros(self.count, bool)
        for ids in self._pinned:
            stays[classes[ids]] = True
        return classes, stays

    def _share(self, name: str, uses: list[tuple[str, Ids | None, Ids]]) -> None:
        """Join the channels of layers that share a weight; pin them where anything else reads it too."""
        role, inputs, outputs = uses[0]

        # Layers that share W must slice it alike: the same operator, axis and groups
        # (`role`), and both or neither with inputs that are tracked.
        alike = all(
            (use[0], use[1] is None, use[2].size)
            == (role, inputs is None, outputs.size)
            for use in uses
        )
        if (
            len(uses) < len(self.view.uses[name])
            or name in self.view.fixed
            or not alike
        ):
            # Something else needs W whole: a node that is no layer, a subgraph, a caller.
            for _, some, others in uses:
                self.pin(others)
                if some is not None:
                    self.pin(some)
            return
        # One slice of W for all: row o goes in every layer or in none, and column c likewise.
        for _, some, others in uses[1:]:
            self.join(outputs, others)
            if inputs is not None and some is not None:
                self.join(inputs, some)


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
