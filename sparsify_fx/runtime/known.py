"""What is known of a graph that is rewritten: constants, shapes, and which of its nodes are layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, attribute, names_in
from sparsify_fx.runtime.candidates import (
    Candidate,
    attributes,
    candidate_of,
)
from sparsify_fx.runtime.choice.layouts import Graph
from sparsify_fx.runtime.fusion.fuse import Tail, tail_of
from sparsify_fx.runtime.fusion.join import fits_planes, is_depthwise
from sparsify_fx.runtime.restore import Read


@dataclass(frozen=True)
class Known:
    """A graph, its constants, the shapes that every input gives, those of the expected input, and the weights of
    quantized layers.
    """

    view: GraphView
    constants: Constants
    shapes: Mapping[str, Shape]
    expected: Mapping[str, Shape]
    quantized: Collection[str] = ()

    def candidate(self, node: NodeProto) -> Candidate | None:
        stored = len(node.input) > 1 and self.constants.can_be_sparse(node.input[1])
        found = candidate_of(node, self.constants, self.expected) if stored else None
        if found is None:
            return None
        # All values that the fused operator would compute: profiles name some of them.
        values = list(node.output)
        for each in self.tail(node, set()).nodes:
            values += each.output
        return dataclasses.replace(
            found,
            chained=id(node) in self.chained,
            values=tuple(values),
            quantized=node.input[1] in self.quantized,
        )

    @cached_property
    def chained(self) -> set[int]:
        """The convolutions, by the `id` of their node, that could pass padded planes on, or take them."""
        shapes = {
            id(node): self.constants[node.input[1]].shape
            for node in self.view.nodes
            if node.op_type == "Conv" and node.input[1] in self.constants
        }
        convs = [node for node in self.view.nodes if id(node) in shapes]
        # A depthwise convolution is fused with the layer before it, which then no longer
        # has a result in planes.
        joined = {
            node.input[0]
            for node in convs
            if is_depthwise(shapes[id(node)], attributes(node))
        }
        fitting = {
            self.tail(n, set()).output: n
            for n in convs
            if fits_planes(shapes[id(n)], attributes(n))
        }
        fitting = {name: node for name, node in fitting.items() if name not in joined}
        read = {node.input[0] for node in fitting.values()}
        # Alone a layer would be converted on both sides: planes pay from two layers on.
        return {
            id(node)
            for name, node in fitting.items()
            if node.input[0] in fitting or name in read
        }

    def tail(self, node: NodeProto, taken: set[int]) -> Tail:
        return tail_of(node, self.view, self.shapes, self.constants, taken)

    def graph(self, outputs: Iterable[str], batch: int) -> Graph:
        """As `fastest_layers` looks at it."""
        nodes = self.view.nodes
        return Graph(
            nodes,
            self.expected,
            outputs,
            batch,
            self.candidate,
            lambda node: self.tail(node, set()).output,
        )

    def layers(self, choose: Callable[[Candidate], bool]) -> dict[int, Candidate]:
        """The layers to rewrite by the `id` of their node, in order."""
        found: dict[int, Candidate] = {}
        for node in self.view.nodes:
            layer = self.candidate(node)
            if layer is not None and choose(layer):
                found[id(node)] = layer

        # A weight is stored once: sparse for all of its readers, or for none.
        def alone(layer: Candidate) -> bool:
            name, view = layer.node.input[1], self.view
            readers = [id(reader) for reader in view.uses[name]]
            return (
                name not in view.fixed
                and name != layer.node.input[0]
                and all(reader in found for reader in readers)
            )

        return {key: layer for key, layer in found.items() if alone(layer)}


class Constants(Mapping[str, NDArray[Any]]):
    """The arrays of initializers that no caller can replace, and of Constant nodes, each read when it is asked for."""

    def __init__(self, graph: onnx.GraphProto, read: Read) -> None:
        # An initializer that is an input as well can be replaced by the caller in every
        # run.
        given = {item.name for item in graph.input}
        self._names = {tensor.name for tensor in graph.initializer}
        # Values of nodes and inputs too: a tensor of such a name would be a second one.
        self._taken = set(names_in(graph))
        self._tensors: dict[str, TensorProto] = {
            t.name: t for t in graph.initializer if t.name not in given
        }
        # Older exporters write limits and biases as Constant nodes.
        for node in graph.node:
            value = (
                attribute(node, "value")
                if node.op_type == "Constant" and not node.domain
                else None
            )
            if value is not None:
                self._tensors[node.output[0]] = value
        self._read = read

    def can_be_sparse(self, name: str) -> bool:
        """Whether this is an initializer, and the names that its sparse form would use are free."""
        return name in self._names and self._taken.isdisjoint(
            (f"{name}.values", f"{name}.gaps")
        )

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._read(self._tensors[name])

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
