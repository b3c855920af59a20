"""Who makes and who reads each value of an ONNX graph, and which values are constants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
"""Types whose values the passes compute with; half precision would lose the 1e-6."""


class GraphView:
    """The main graph of `model`, indexed by name; a pass makes a new one after it changed anything.

    Values that a subgraph (If, Loop, Scan) or a graph output reads are `fixed`: no pass renames or reshapes them.
    Initializers that are graph inputs as well are no constants: a caller may override them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = list(model.graph.node)
        self.inputs = {item.name for item in model.graph.input}
        self.outputs = {item.name for item in model.graph.output}
        self.tensors = {
            item.name: item
            for item in model.graph.initializer
            if item.name not in self.inputs
        }
        # Nodes are kept as the objects of the graph: passes change them in place, and
        # readers of this view see it. Places in `nodes` hold until nodes are removed.
        self.producers: dict[str, onnx.NodeProto] = {}
        self.uses: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.captured: set[str] = set()
        for node in self.nodes:
            self.producers |= {name: node for name in node.output if name}
            for name in filter(None, node.input):
                self.uses[name].append(node)
            for inner in subgraphs(node):
                # Its own names too: no harm, as a name that a subgraph hides is kept rather than lost.
                self.captured.update(names_in(inner))
        self.fixed = self.outputs | self.captured
        # Every name that exists, so that `fresh` makes none twice, also of nodes that were removed.
        self._names = {
            *self.inputs,
            *self.outputs,
            *self.producers,
            *self.captured,
            *self.uses,
        }
        self._names.update(item.name for item in model.graph.initializer)
        self._names.update(item.values.name for item in model.graph.sparse_initializer)
        self._arrays: dict[str, Array] = {}

    @property
    def opset(self) -> int:
        """The version of the standard operators, 0 when the model imports none."""
        return next(
            (
                item.version
                for item in self.model.opset_import
                if item.domain in ("", "ai.onnx")
            ),
            0,
        )

    def constant(self, name: str) -> Array | None:
        """The initializer of this name; None when there is none or its data lies in another file."""
        tensor = self.tensors.get(name)
        # External data has not been read; passes leave such weights alone.
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        if name not in self._arrays:
            # Kept: many nodes ask for one weight, and decoding copies it.
            self._arrays[name] = numpy_helper.to_array(tensor)
        return self._arrays[name]

    def floats(self, name: str) -> Array | None:
        """`constant(name)` where it is float32 or float64, else None."""
        tensor = self.tensors.get(name)
        return (
            self.constant(name)
            if tensor is not None and tensor.data_type in FLOATS
            else None
        )

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads this value, when it is read once and by nobody outside the main graph."""
        uses = self.uses.get(name, [])
        return uses[0] if len(uses) == 1 and name not in self.fixed else None

    def is_private(self, name: str) -> bool:
        """Whether the constant `name` has one use, so that it may be changed for its reader's sake."""
        return name in self.tensors and self.only_reader(name) is not None

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet, `hint` or `hint_1`, `hint_2`, ..."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def add(self, hint: str, values: Array) -> str:
        """Append an initializer with these values under a fresh name; returns the name."""
        name = self.fresh(hint)
        self.graph.initializer.append(
            # Sliced and transposed arrays are views; a tensor holds its bytes in order.
            numpy_helper.from_array(np.ascontiguousarray(values), name)
        )
        self.tensors[name] = self.graph.initializer[-1]
        return name

    def overwrite(self, name: str, values: Array) -> None:
        """New values, perhaps of another shape, for an initializer."""
        tensor = self.tensors[name]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        self._arrays.pop(name, None)
        # Few exporters record the shapes of initializers, but those that do must not be contradicted.
        for item in self.graph.value_info:
            if item.name == name:
                set_shape(item, values.shape)

    def reroute(self, old: str, new: str) -> None:
        """All readers of `old` in the main graph read `new`."""
        for node in self.uses.get(old, []):
            # `uses` is not brought up to date: whoever goes on with this view does that (`drop_identities`).
            node.input[:] = [new if name == old else name for name in node.input]


def is_standard(node: onnx.NodeProto, *kinds: str) -> bool:
    """Whether the node is one of these operators of the standard set."""
    return node.domain in ("", "ai.onnx") and node.op_type in kinds


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name in a subgraph, its own and those from outside."""
    for group in (graph.input, graph.output, graph.initializer):
        yield from (item.name for item in group)
    for node in graph.node:
        yield from node.input
        yield from node.output
        for inner in subgraphs(node):
            yield from names_in(inner)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, text as `str`; `default` when it is absent.

    >>> attribute(onnx.helper.make_node("Gemm", ["a", "b"], ["y"], transB=1), "transB", 0)
    1
    """
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Write an attribute, in place; None removes it."""
    # From the end, so that the places of the others hold.
    for index, item in reversed(list(enumerate(node.attribute))):
        if item.name == name:
            del node.attribute[index]
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def input_of(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty when it is left out."""
    return node.input[index] if index < len(node.input) else ""


def set_input(node: onnx.NodeProto, index: int, name: str) -> None:
    """Write one input, with empty names before it where they are missing."""
    while len(node.input) <= index:
        node.input.append("")
    node.input[index] = name


def set_shape(item: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Write a static shape into a value's type."""
    dims = item.type.tensor_type.shape
    dims.Clear()
    for size in shape:
        dims.dim.add().dim_value = size
