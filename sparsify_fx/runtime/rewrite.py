"""Layers of an ONNX model become the sparse operators of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.shapes import Shape, infer_shapes
from sparsify_fx.onnx_tools.view import GraphView, attribute
from sparsify_fx.runtime.attention.join import join_attention
from sparsify_fx.runtime.candidates import (
    DOMAIN,
    Candidate,
    attributes,
    candidate_of,
    sparse_node,
)
from sparsify_fx.runtime.choice.cost import Times, estimate
from sparsify_fx.runtime.choice.giving_back import fastest
from sparsify_fx.runtime.choice.layouts import Graph, fastest_layers
from sparsify_fx.runtime.choice.racing import inlined, made_up
from sparsify_fx.runtime.encode import packed_weight
from sparsify_fx.runtime.fusion.fuse import Tail, tail_of
from sparsify_fx.runtime.fusion.join import fits_planes, is_depthwise, join_depthwise
from sparsify_fx.runtime.fusion.join_pool import join_pools
from sparsify_fx.runtime.fusion.join_sum import join_sums
from sparsify_fx.runtime.fusion.planes import pad_planes
from sparsify_fx.runtime.fusion.pools import is_pool, pool_node
from sparsify_fx.runtime.replace import copied, replace
from sparsify_fx.runtime.restore import Read


def to_sparse(
    model: onnx.ModelProto,
    choose: Callable[[Candidate], bool] | None = None,
    *,
    timed: Callable[[Candidate], Times] | None = None,
    autotune: bool = False,
    batch: int = 1,
    threads: int = 1,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    read: Read = numpy_helper.to_array,
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` with sparse operators where they are faster, and the names of the weights they hold.

    Additions of equal shape and activations (ReLU, ReLU6, SiLU, GELU) behind a layer become part of it. All other
    nodes stay as they are, but for attention over packed heads, which becomes one operator; activations stay in NCHW,
    so nothing is converted between sparse and dense layers. A weight that several nodes read becomes sparse for all of
    them or for none.

    Args:
        model: a model with dense weights as initializers.
        choose: which layers to take; the default are those with which the whole model should take the least time.
        timed: for that, the times of a layer instead of estimates.
        autotune: choose anew by times on this machine, with `threads` threads: those of layers within the whole model,
            on made-up inputs, and of the whole models that such choices make; the fastest stays (`giving_back`).
        batch: the batch size to expect, where the model leaves it open.
        sizes: the shapes of the model's inputs to expect, where it leaves more open than that.
        expected: the shapes of other values at these sizes, as a run of the model has them; the rest is inferred.
        read: gives the array of an initializer, for models with external data.

    Raises ExportError when `autotune` cannot run the model.

    >>> import numpy as np
    >>> weight = numpy_helper.from_array(np.eye(512, dtype=np.float32), "w")
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 512]) for name in "xy")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
    >>> sparse, names = to_sparse(model)
    >>> names, sparse.graph.node[0].op_type
    (['w'], 'SparseMatMul')
    """
    timed = timed or partial(estimate, batch=batch)
    if autotune and choose is None:
        again = partial(
            to_sparse, model, batch=batch, sizes=sizes, expected=expected, read=read
        )
        whole, given = inlined(model, read), made_up(model, sizes)
        tried = fastest(
            whole,
            lambda times: again(timed=times),
            timed,
            given,
            add=True,
            threads=threads,
        )
        return tried.model, tried.names
    rewritten = copied(model)
    shapes = infer_shapes(rewritten, recorded=True)
    at_sizes = (
        shapes
        | (infer_shapes(rewritten, sizes) if sizes else {})
        | dict(expected or {})
    )
    known = _Known(
        GraphView(rewritten), _Constants(rewritten.graph, read), shapes, at_sizes
    )
    pools: list[NodeProto] = []
    if choose is None:
        outputs = [item.name for item in rewritten.graph.output]
        chosen = fastest_layers(known.graph(outputs, batch), timed)
        choose = partial(_makes_one_of, chosen)
        pools = [
            node
            for node in known.view.nodes
            if is_pool(node) and node.output[0] in chosen
        ]
    layers = known.layers(choose)
    # Pooling pays between sparse layers alone, and a file without any must not need the library.
    nodes = _with_ours(known, layers, pools if layers else [])
    weights = {layer.node.input[1]: layer.weight for layer in layers.values()}
    replace(
        rewritten,
        nodes,
        [
            tensor
            for name, weight in weights.items()
            for tensor in packed_weight(name, weight)
        ],
    )
    if weights and all(opset.domain != DOMAIN for opset in rewritten.opset_import):
        rewritten.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    join_depthwise(rewritten)
    join_pools(rewritten)
    join_sums(rewritten)
    pad_planes(rewritten)
    if layers:  # alone it makes no sparse file either
        join_attention(rewritten, shapes, _Constants(rewritten.graph, read))
    return rewritten, list(weights)


def _makes_one_of(names: set[str], layer: Candidate) -> bool:
    return layer.node.output[0] in names


def _with_ours(
    known: _Known, layers: Mapping[int, Candidate], pools: Iterable[NodeProto]
) -> list[NodeProto]:
    """All nodes in their order, with these layers and the tails behind them, and these poolings, as our operators."""
    replaced: dict[int, list[NodeProto]] = {
        id(node): [pool_node(node)] for node in pools
    }
    taken: set[int] = set()
    for layer in layers.values():
        tail = known.tail(layer.node, taken)
        gone = (layer.node, *tail.nodes)
        taken.update(id(each) for each in gone)
        replaced.update({id(each): [] for each in gone})
        replaced[id(gone[-1])] = [sparse_node(layer, tail)]
    return [new for node in known.view.nodes for new in replaced.get(id(node), [node])]


@dataclass(frozen=True)
class _Known:
    """A graph, its constants, the shapes that every input gives, and those of the expected input."""

    view: GraphView
    constants: _Constants
    shapes: Mapping[str, Shape]
    expected: Mapping[str, Shape]

    def candidate(self, node: NodeProto) -> Candidate | None:
        stored = len(node.input) > 1 and self.constants.can_be_sparse(node.input[1])
        found = candidate_of(node, self.constants, self.expected) if stored else None
        if found is None:
            return None
        values = tuple(
            name
            for each in (node, *self.tail(node, set()).nodes)
            for name in each.output
        )
        return dataclasses.replace(
            found, chained=id(node) in self.chained, values=values
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

        def alone(layer: Candidate) -> bool:
            name, view = layer.node.input[1], self.view
            readers = [id(reader) for reader in view.uses[name]]
            return (
                name not in view.fixed
                and name != layer.node.input[0]
                and all(reader in found for reader in readers)
            )

        return {key: layer for key, layer in found.items() if alone(layer)}


class _Constants(Mapping[str, NDArray[Any]]):
    """The arrays of initializers that no caller can replace, and of Constant nodes, each read when it is asked for."""

    def __init__(self, graph: onnx.GraphProto, read: Read) -> None:
        given = {item.name for item in graph.input}
        self._names = {tensor.name for tensor in graph.initializer}
        self._tensors: dict[str, TensorProto] = {
            t.name: t for t in graph.initializer if t.name not in given
        }
        for node in graph.node:  # older exporters write limits and biases like that
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
        return name in self._names and self._names.isdisjoint(
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
