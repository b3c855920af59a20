"""Which channels of which values stand and fall together."""

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
        """How many channels there are."""
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
        """New ids."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def join(self, first: Ids, second: Ids) -> None:
        """These channels stand and fall together, pair by pair."""
        self._joined.append((first, second))

    def pin(self, ids: Ids) -> None:
        """These channels stay."""
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
        for name, uses in self._weights.items():
            self._share(name, uses)
        classes = np.arange(self.count)
        if self._joined:
            first, second = (
                np.concatenate(part) for part in zip(*self._joined, strict=True)
            )
            classes = _components(self.count, first, second)
        stays = np.zeros(self.count, bool)
        for ids in self._pinned:
            stays[classes[ids]] = True
        return classes, stays

    def _share(self, name: str, uses: list[tuple[str, Ids | None, Ids]]) -> None:
        """Join the channels of layers that share a weight; pin them where anything else reads it too."""
        role, inputs, outputs = uses[0]
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
            for _, some, others in uses:
                self.pin(others)
                if some is not None:
                    self.pin(some)
            return
        for _, some, others in uses[1:]:
            self.join(outputs, others)
            if inputs is not None and some is not None:
                self.join(inputs, some)


def _components(count: int, first: Ids, second: Ids) -> Ids:
    """The smallest id that each id is connected with."""
    labels = np.arange(count)
    while True:
        smaller = np.minimum(labels[first], labels[second])
        after = labels.copy()
        np.minimum.at(after, labels[first], smaller)
        np.minimum.at(after, labels[second], smaller)
        after = after[after]
        if np.array_equal(after, labels):
            return labels
        labels = after
