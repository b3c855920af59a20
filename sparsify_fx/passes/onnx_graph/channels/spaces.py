"""Which channels of which values stand and fall together.

Each layer gives its output channels fresh ids. Operators pass ids on: a ReLU gives its output the ids of its input, a
concatenation puts two rows of ids one after the other. Where two ids meet, as in a sum, they are joined. A channel that
something reads which is not understood is pinned. In the end the joined ids form classes, and a class goes or stays as
a whole, in every value that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from sparsify_fx.coupling.classes import Array, Classes, Ids, Mask
from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView

__all__ = ["Array", "Ids", "Mask", "Reading", "Spaces", "Track"]


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
    classes: Classes = field(default_factory=Classes)
    _weights: dict[str, list[tuple[str, Ids | None, Ids]]] = field(default_factory=dict)

    def fresh(self, size: int) -> Ids:
        """Ids that no channel has yet, in order: [size]."""
        return self.classes.fresh(size)

    def join(self, first: Ids, second: Ids) -> None:
        """These channels stand and fall together, pair by pair."""
        self.classes.join(first, second)

    def pin(self, ids: Ids) -> None:
        """These channels stay, and so do those that they are joined with."""
        self.classes.pin(ids)

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
        # Shared weights come last, when all their layers are known.
        for name, uses in self._weights.items():
            self._share(name, uses)
        return self.classes.resolve()

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
