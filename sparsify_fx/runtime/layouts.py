"""Which layers become sparse, with an eye on the order of values in memory between them.

onnxruntime computes convolutions in an order of its own, channels in blocks. Ours are in NCHW. Where a value goes from
one to the other it is copied, which can take longer than the layer; so layers are chosen together, as a minimum cut.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from sparsify_fx.passes.onnx_graph.shapes import Shape
from sparsify_fx.runtime.candidates import Candidate, attributes
from sparsify_fx.runtime.cost import MARGIN, Times
from sparsify_fx.runtime.cut import SINK, SOURCE, minimum_cut
from sparsify_fx.runtime.join import is_depthwise, is_pointwise
from sparsify_fx.runtime.pools import DENSE_VALUE, OWN_VALUE, is_pool

TO_BLOCKS, FROM_BLOCKS = 0.14, 0.2
"""Nanoseconds to copy one value from NCHW into blocks and back, on the machine of `estimate`."""
JOINED_VALUE, JOINED_LAYER = 0.1, 4000.0
"""Nanoseconds that joining two layers saves: for each value between them, and for a pass over them."""

# Operators that onnxruntime computes in blocks where their input is in blocks, and in NCHW otherwise.
EITHER = {"Add", "Clip", "Concat", "Identity", "Mul", "Relu", "Sigmoid", "Sum", "Tanh", "BatchNormalization"}
# Those that it always computes in blocks.
BLOCKED = {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}


@dataclass(frozen=True)
class Graph:
    """What is known of a model: its nodes in order, shapes, outputs, the batch to expect.

    `candidate` gives a node as a layer, and `behind` the name of its value after all that a kernel takes over.
    """

    nodes: Iterable[NodeProto]
    shapes: Mapping[str, Shape]
    outputs: Iterable[str]
    batch: int
    candidate: Callable[[NodeProto], Candidate | None]
    behind: Callable[[NodeProto], str]

    def values(self, name: str) -> float:
        """Floats of an image or feature map; 0 for what is none or of unknown shape."""
        shape = self.shapes.get(name)
        if shape is None or len(shape) != 4:
            return 0.0
        first = shape[0] if isinstance(shape[0], int) else self.batch
        return float(first * math.prod(length for length in shape[1:] if isinstance(length, int)))


def fastest_layers(graph: Graph, timed: Callable[[Candidate], Times], alone: bool = False) -> set[str]:
    """The first output of each layer that should become sparse, and of each pooling between them: least time in all.

    A layer costs its time, dense or sparse; a value that one side computes and the other reads costs a copy; a 1x1
    convolution with the depthwise one behind it costs less when both are sparse. `alone`: dense times are those of
    a session with one layer, which contain the copies of its input and output. A model in which no layer with
    zeros is worth it stays as it is.
    """
    costs: dict[tuple[str, str], float] = defaultdict(float)
    sparse, pools, pointwise, depthwise = set(), set(), {}, {}
    for node in graph.nodes:
        key = node.output[0] if node.output else ""
        layer = graph.candidate(node) if node.input else None
        found = attributes(node) if node.op_type == "Conv" else {}
        own = layer is not None and is_depthwise(layer.weight.shape, found)
        if layer is not None and (own or layer.density < 1):
            times = timed(layer)
            dense = times.dense - (_copies(graph, layer) if alone else 0.0)
            costs[SOURCE, key] += MARGIN * max(dense, 0.5 * times.dense)
            costs[key, SINK] += times.sparse
            if layer.density < 1:
                sparse.add(key)
                if node.op_type == "Conv" and is_pointwise(layer.weight.shape, found):
                    pointwise[graph.behind(node)] = key
            if own:
                depthwise[node.input[0]] = key
        elif is_pool(node) and node.input[0] in graph.shapes:
            size = graph.values(node.input[0]) + graph.values(node.output[0])
            costs[SOURCE, key] += MARGIN * DENSE_VALUE * size
            costs[key, SINK] += OWN_VALUE * size
            pools.add(key)
        elif node.op_type in BLOCKED:
            costs[key, SINK] = math.inf
        elif node.op_type not in EITHER:
            costs[SOURCE, key] = math.inf
    _add_copies(graph, costs)
    for name in pointwise.keys() & depthwise.keys():
        saved = min(JOINED_VALUE * graph.values(name) + JOINED_LAYER, costs[pointwise[name], SINK])
        costs[pointwise[name], SINK] -= saved
        costs[pointwise[name], depthwise[name]] += saved
    chosen = minimum_cut(costs)
    return chosen & (sparse | pools | set(depthwise.values())) if chosen & sparse else set()


def _copies(graph: Graph, layer: Candidate) -> float:
    """Nanoseconds that onnxruntime spends around a dense convolution that stands alone."""
    if layer.node.op_type != "Conv":
        return 0.0
    return TO_BLOCKS * graph.values(layer.node.input[0]) + FROM_BLOCKS * graph.values(layer.node.output[0])


def _add_copies(graph: Graph, costs: dict[tuple[str, str], float]) -> None:
    """What the values between nodes cost; a copy serves all that read it."""
    makers = {name: node.output[0] for node in graph.nodes for name in node.output if name}
    kinds = {node.output[0]: node.op_type for node in graph.nodes if node.output}
    for node in graph.nodes:
        for name in node.input:
            size = graph.values(name)
            if name in makers and size:
                _connect(costs, name, makers[name], node.output[0], size)
    for name in graph.outputs:
        if name in makers and kinds[makers[name]] and graph.values(name):
            costs[SOURCE, f"{name}, out"] = math.inf
            _connect(costs, name, makers[name], f"{name}, out", graph.values(name))


def _connect(costs: dict[tuple[str, str], float], name: str, maker: str, reader: str, size: float) -> None:
    plain, blocked = f"{name}, plain", f"{name}, blocked"  # the copies that might be made of a value
    costs[reader, plain] = costs[blocked, reader] = math.inf
    costs[plain, maker] = FROM_BLOCKS * size
    costs[maker, blocked] = TO_BLOCKS * size
