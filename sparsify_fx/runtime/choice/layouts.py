"""Which layers become sparse, with an eye on the order of values in memory between them.

onnxruntime computes convolutions in an order of its own, channels in blocks. Ours are in NCHW. Where a value goes from
one to the other it is copied, which can take longer than the layer; so layers are chosen together, as a minimum cut.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.runtime.candidates import Candidate, attributes
from sparsify_fx.runtime.choice.cost import MARGIN, Times
from sparsify_fx.runtime.choice.cut import SINK, SOURCE, minimum_cut
from sparsify_fx.runtime.fusion.join import is_depthwise, is_pointwise, read_counts
from sparsify_fx.runtime.fusion.pools import DENSE_VALUE, OWN_VALUE, is_pool

TO_BLOCKS, FROM_BLOCKS = 0.14, 0.2
"""Nanoseconds to copy one value from NCHW into blocks and back, on the machine of `estimate`."""
JOINED_VALUE, JOINED_LAYER = 0.1, 4000.0
"""Nanoseconds that joining two layers saves: for each value between them, and for a pass over them."""
HIDDEN_VALUE = 0.4
"""The same for each value between two matrix products, which is neither written nor transposed twice."""

# Operators that onnxruntime computes in blocks where their input is in blocks, and in NCHW otherwise.
EITHER = {
    "Add",
    "Clip",
    "Concat",
    "Identity",
    "Mul",
    "Relu",
    "Sigmoid",
    "Sum",
    "Tanh",
    "BatchNormalization",
}
# Those that it always computes in blocks.
BLOCKED = {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Graph:
    """What is known of a model: its nodes in order, shapes, outputs, the batch to expect.

    `candidate` gives a node as a layer, and `tail_output` the name of its value after all that a kernel takes over.
    """

    nodes: Iterable[NodeProto]
    shapes: Mapping[str, Shape]
    outputs: Iterable[str]
    batch: int
    candidate: Callable[[NodeProto], Candidate | None]
    tail_output: Callable[[NodeProto], str]

    def values(self, name: str) -> float:
        """Floats of an image or feature map; 0 for what is none or of unknown shape."""
        shape = self.shapes.get(name)
        if shape is None or len(shape) != 4:
            return 0.0
        return self._floats(shape)

    def rows(self, name: str) -> float:
        """Floats of what a matrix product reads or gives; 0 where the shape is unknown."""
        shape = self.shapes.get(name)
        return self._floats(shape) if shape else 0.0

    def _floats(self, shape: Shape) -> float:
        first = shape[0] if isinstance(shape[0], int) else self.batch
        return float(
            first * math.prod(length for length in shape[1:] if isinstance(length, int))
        )


def fastest_layers(graph: Graph, timed: Callable[[Candidate], Times]) -> set[str]:
    """The first output of each layer that should become sparse, and of each pooling between them: least time in all.

    A layer costs its time, dense or sparse; a value that one side computes and the other reads costs a copy; a 1x1
    convolution with the depthwise one after it costs less when both are sparse. A model in which no layer with zeros
    is worth it stays as it is.
    """
    # 1. What each node costs on either side. What is neither a layer of ours nor a
    # pooling stands on a side already: in blocks (SINK), or in NCHW (SOURCE) like our
    # layers. The operators of EITHER follow what is around them.
    found = _Costs()
    for node in graph.nodes:
        layer = graph.candidate(node) if node.input else None
        if layer is not None and (_is_depthwise(layer) or layer.density < 1):
            _add_layer(found, graph, layer, timed(layer))
        elif is_pool(node) and node.input[0] in graph.shapes:
            _add_pool(found, graph, node)
        elif node.op_type in BLOCKED:
            found.edges[node.output[0], SINK] = math.inf
        elif node.output and node.op_type not in EITHER:
            found.edges[SOURCE, node.output[0]] = math.inf

    # 2. What values cost that pass from one side to the other, and what is saved where
    # two layers are fused.
    _add_copies(graph, found.edges)
    _join(found, graph)

    # 3. The cut. Poolings alone would need the library for hardly any gain, so without a
    # sparse layer nothing is chosen.
    chosen = minimum_cut(found.edges)
    ours = found.sparse | found.pools | set(found.depthwise.values())
    return chosen & ours if chosen & found.sparse else set()


@dataclass
class _Costs:
    """The edges of the cut in nanoseconds, and what its vertices are.

    Attributes:
        edges: from the side of our layers, SOURCE, to that of dense ones, SINK.
        sparse: layers that have zeros.
        pools: poolings.
        pointwise: 1x1 convolutions, by the value that reaches the node after them.
        depthwise: depthwise convolutions, by the value that they read.
        products: matrix products that have zeros, by the value that reaches the node after them, and by what they read.
    """

    edges: dict[tuple[str, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    sparse: set[str] = field(default_factory=set)
    pools: set[str] = field(default_factory=set)
    pointwise: dict[str, str] = field(default_factory=dict)
    depthwise: dict[str, str] = field(default_factory=dict)
    products: tuple[dict[str, str], dict[str, str]] = field(
        default_factory=lambda: ({}, {})
    )

    def add(self, key: str, dense: float, own: float) -> None:
        """What a node costs in onnxruntime, and as one of ours."""
        self.edges[SOURCE, key] += MARGIN * dense
        self.edges[key, SINK] += own


def _is_depthwise(layer: Candidate) -> bool:
    return layer.node.op_type == "Conv" and is_depthwise(
        layer.weight.shape, attributes(layer.node)
    )


def _add_layer(found: _Costs, graph: Graph, layer: Candidate, times: Times) -> None:
    node, key = layer.node, layer.node.output[0]
    found.add(key, times.dense, times.sparse)
    # A dense layer may be ours too, as the depthwise half of a fused pair; but it alone
    # is no reason for a sparse file.
    if layer.density < 1:
        found.sparse.add(key)
        if node.op_type == "Conv" and is_pointwise(
            layer.weight.shape, attributes(node)
        ):
            found.pointwise[graph.tail_output(node)] = key
        if node.op_type != "Conv":
            found.products[0][graph.tail_output(node)] = key
            found.products[1][node.input[0]] = key
    if _is_depthwise(layer):
        found.depthwise[node.input[0]] = key


def _add_pool(found: _Costs, graph: Graph, node: NodeProto) -> None:
    size = graph.values(node.input[0]) + graph.values(node.output[0])
    found.add(node.output[0], DENSE_VALUE * size, OWN_VALUE * size)
    found.pools.add(node.output[0])


def _join(found: _Costs, graph: Graph) -> None:
    """What is saved where both layers of a pair are ours, which then are one operator."""
    for name in found.pointwise.keys() & found.depthwise.keys():
        saved = JOINED_VALUE * graph.values(name) + JOINED_LAYER
        _save(found, found.pointwise[name], found.depthwise[name], saved)
    makers, readers = found.products
    read = read_counts(graph.nodes)
    for name in makers.keys() & readers.keys():
        # What somebody else reads has to be written.
        if read[name] == 1 and name not in graph.outputs:
            saved = HIDDEN_VALUE * graph.rows(name) + JOINED_LAYER
            _save(found, makers[name], readers[name], saved)


def _save(found: _Costs, first: str, second: str, saved: float) -> None:
    """Saved only if both are ours, so the amount moves from the first layer's own edge to one between the two, which is
    paid if the second stays dense. No edge of a cut may be negative, hence the minimum."""
    saved = min(saved, found.edges[first, SINK])
    found.edges[first, SINK] -= saved
    found.edges[first, second] += saved


def _add_copies(graph: Graph, costs: dict[tuple[str, str], float]) -> None:
    """What the values between nodes cost; a copy serves all that read it."""
    makers: dict[str, str] = {}
    for node in graph.nodes:
        makers.update((name, node.output[0]) for name in node.output if name)
    kinds = {node.output[0]: node.op_type for node in graph.nodes if node.output}
    for node in graph.nodes:
        for name in node.input:
            size = graph.values(name)
            # Values from outside, and those whose size is unknown, cost nothing on either
            # side.
            if name in makers and size:
                _connect(costs, name, makers[name], node.output[0], size)
    for name in graph.outputs:
        if name in makers and kinds[makers[name]] and graph.values(name):
            # Whoever reads an output of the model reads NCHW, so it counts as a reader on
            # our side.
            costs[SOURCE, f"{name}, out"] = math.inf
            _connect(costs, name, makers[name], f"{name}, out", graph.values(name))


def _connect(
    costs: dict[tuple[str, str], float], name: str, maker: str, reader: str, size: float
) -> None:
    plain, blocked = f"{name}, plain", f"{name}, blocked"
    # Two vertices for each value: `plain` is on our side as soon as any reader is, and
    # `blocked` on the other as soon as any reader is there. So a copy is paid once,
    # whatever the number of readers.
    costs[reader, plain] = costs[blocked, reader] = math.inf
    costs[plain, maker] = FROM_BLOCKS * size
    costs[maker, blocked] = TO_BLOCKS * size
