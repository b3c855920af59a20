"""Slice channels out of a graph, once it is decided which ones.

Tensors are never changed in place here: others may read them. Each slice is a new constant beside the old one, and in
the end constants without readers go and a single successor takes over the name, so that `conv1.weight` is itself again.
Where two layers sliced a shared constant differently both keep names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from sparsify_fx.onnx_tools.view import GraphView, set_shape
from sparsify_fx.passes.onnx_graph.channels.constants import Constants
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind
from sparsify_fx.passes.onnx_graph.channels.spaces import Array, Mask, Spaces
from sparsify_fx.passes.onnx_graph.drop_unused import forget_shapes


@dataclass
class Removal:
    """What the operators need to slice themselves.

    `stays[i]`: whether the channel with id i stays. `constants`: what the channels equal that go.
    """

    spaces: Spaces
    constants: Constants
    stays: Mask
    _slices: dict[tuple[str, int, bytes], str] = field(default_factory=dict)
    _variants: dict[str, list[str]] = field(default_factory=dict)
    _inserted: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def view(self) -> GraphView:
        """The graph that is sliced."""
        return self.spaces.view

    def kept(self, name: str) -> Mask:
        """[channels] of a tracked value: which stay."""
        return np.asarray(self.stays[self.spaces.tracks[name].ids])

    def kept_or_all(self, name: str, size: int) -> Mask:
        """The same; all of `size` where the value is not tracked."""
        return self.kept(name) if name in self.spaces.tracks else np.ones(size, bool)

    def sliced(self, name: str, axis: int, kept: Mask) -> str:
        """The name of a constant that holds the kept part; uses that slice a constant alike share the result."""
        # A slice that keeps everything would be a copy for nothing.
        if kept.all():
            return name
        # Layers that share a weight are sliced alike (`Spaces._share`); one tensor stays shared this way.
        key = (name, axis, kept.tobytes())
        if key not in self._slices:
            values = self.view.constant(name)
            assert values is not None
            self._slices[key] = self.add(name, np.compress(kept, values, axis=axis))
        return self._slices[key]

    def add(self, original: str, values: Array) -> str:
        """A new constant; it takes the original's name in the end, where that is free then."""
        # A slice of a slice (rows, then columns) belongs to the first tensor, whose name is to be kept.
        name = self.view.add(f"{original}_kept", values)
        root = next(
            (root for root, names in self._variants.items() if original in names),
            original,
        )
        self._variants.setdefault(root, []).append(name)
        return name

    def insert_after(self, node: onnx.NodeProto) -> None:
        """Put a node in right after the one that makes its first input."""
        self._inserted.append(node)

    def apply(self, kinds: Mapping[str, Kind]) -> None:
        """Slice all nodes whose channels shrink, then tidy the names and the recorded shapes."""
        tracks = self.spaces.tracks
        for node in self.view.nodes:
            # 1. Nodes that lose channels slice themselves, on the graph as it was.
            touched = [name for name in (*node.input, *node.output) if name in tracks]
            # A node without tracked outputs was not understood, so its inputs were
            # pinned: nothing to slice.
            understood = any(name in tracks for name in node.output)
            if understood and any(not self.kept(name).all() for name in touched):
                kinds[node.op_type].remove(node, self)
        # 2. Then what needs all nodes sliced: new Adds, recorded sizes, names.
        self._insert()
        self._record_shapes()
        self._take_names()

    def _insert(self) -> None:
        graph = self.view.graph
        for node in self._inserted:
            # By what it makes, not by its place: earlier insertions have shifted those.
            index = next(
                i for i, other in enumerate(graph.node) if node.input[0] in other.output
            )
            # Topological order: right after its operand, before all readers.
            graph.node.insert(index + 1, node)

    def _record_shapes(self) -> None:
        """Correct the recorded sizes of the values that lost channels."""
        for item in self.view.graph.value_info:
            if item.name in self.spaces.tracks and item.type.tensor_type.HasField(
                "shape"
            ):
                axis, left = (
                    self.spaces.tracks[item.name].axis,
                    int(self.kept(item.name).sum()),
                )
                dims = item.type.tensor_type.shape.dim
                if axis < len(dims):
                    # Runtimes believe what a file says about its values, and would
                    # complain of the old sizes.
                    dims[axis].dim_value = left

    def _take_names(self) -> None:
        """Drop the constants that nobody reads any more; a single successor takes the name."""
        graph = self.view.graph
        # 1. What nobody reads any more, among the constants that were sliced and their slices.
        after = GraphView(self.view.model)
        old = {item.name: item for item in graph.value_info}
        concerned = {*self._variants}.union(*self._variants.values())
        unread = {
            name
            for name in concerned
            if name in after.tensors and not after.uses.get(name)
        } - after.fixed
        for index in range(len(graph.initializer) - 1, -1, -1):
            if graph.initializer[index].name in unread:
                del graph.initializer[index]

        # 2. A constant that is gone hands its name on, if one successor is left: of
        # two, neither could say which it is.
        for root, names in self._variants.items():
            alive = [name for name in names if name not in unread]
            if root in unread and len(alive) == 1:
                self._rename(alive[0], root, after, old.get(root))
        forget_shapes(self.view.model)

    def _rename(
        self,
        name: str,
        root: str,
        after: GraphView,
        recorded: onnx.ValueInfoProto | None,
    ) -> None:
        after.reroute(name, root)
        tensor = after.tensors[name]
        tensor.name = root
        if recorded is not None:
            set_shape(recorded, tuple(tensor.dims))
