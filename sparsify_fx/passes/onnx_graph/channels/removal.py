"""Slice channels out of a graph, once it is decided which ones."""

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
        """The graph."""
        return self.spaces.view

    def kept(self, name: str) -> Mask:
        """[channels] of a tracked value: which stay."""
        return np.asarray(self.stays[self.spaces.tracks[name].ids])

    def kept_or_all(self, name: str, size: int) -> Mask:
        """The same; all of `size` where the value is not tracked."""
        return self.kept(name) if name in self.spaces.tracks else np.ones(size, bool)

    def sliced(self, name: str, axis: int, kept: Mask) -> str:
        """The name of a constant that holds the kept part; uses that slice a constant alike share the result."""
        if kept.all():
            return name
        key = (name, axis, kept.tobytes())
        if key not in self._slices:
            values = self.view.constant(name)
            assert values is not None
            self._slices[key] = self.add(name, np.compress(kept, values, axis=axis))
        return self._slices[key]

    def add(self, original: str, values: Array) -> str:
        """A new constant; it takes the original's name in the end, where that is free then."""
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
            touched = [name for name in (*node.input, *node.output) if name in tracks]
            understood = any(name in tracks for name in node.output)
            if understood and any(not self.kept(name).all() for name in touched):
                kinds[node.op_type].remove(node, self)
        self._insert()
        self._record_shapes()
        self._take_names()

    def _insert(self) -> None:
        graph = self.view.graph
        for node in self._inserted:
            index = next(
                i for i, other in enumerate(graph.node) if node.input[0] in other.output
            )
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
                    dims[axis].dim_value = left

    def _take_names(self) -> None:
        """Drop the constants that nobody reads any more; a single successor takes the name."""
        graph = self.view.graph
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
