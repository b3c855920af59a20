"""Read weights back from an ONNX graph, with its own nodes, in onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.sparse_initializers import decode_coo
from sparsify_fx.onnx_export.tensors import TensorReader


class Decoder:
    """The constant values of a model: initializers, dense or sparse, and what nodes make of them.

    Raises ExportError for a value that is not there, depends on an input, or cannot be computed.
    """

    def __init__(self, model: onnx.ModelProto, reader: TensorReader | None = None) -> None:
        self.model, self.reader = model, reader or TensorReader()
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in model.graph.sparse_initializer}
        self.producers = {output: node for node in model.graph.node for output in node.output}

    def array(self, name: str) -> NDArray[Any]:
        """The value `name`."""
        if name in self.tensors:
            return self.reader.array(self.tensors[name])
        if name in self.sparse:
            return decode_coo(self.sparse[name])
        if name not in self.producers:
            raise ExportError(f"{name}: the file holds no such tensor; it may be damaged, write it again")
        return self._run(name)

    def _run(self, name: str) -> NDArray[Any]:
        """Run the nodes that make `name`, and no others."""
        values = set(ancestors(name, self.producers))
        model = onnx.ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        graph = model.graph
        graph.name = "weight"
        graph.output.append(helper.make_empty_tensor_value_info(name))
        graph.node.extend(node for node in self.model.graph.node if not values.isdisjoint(node.output))
        graph.initializer.extend(self.reader.inline(self.tensors[value]) for value in values & self.tensors.keys())
        graph.sparse_initializer.extend(self.sparse[value] for value in values & self.sparse.keys())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            data = model.SerializeToString()
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            return np.asarray(session.run([name], {})[0])
        except Exception as error:
            raise ExportError(f"{name}: onnxruntime cannot rebuild this weight: {error}") from error


def ancestors(name: str, producers: dict[str, onnx.NodeProto]) -> Iterator[str]:
    """`name` and every value that it is computed from."""
    pending, seen = [name], {name}
    while pending:
        value = pending.pop()
        yield value
        node = producers.get(value)
        fresh = [] if node is None else [part for part in node.input if part and part not in seen]
        seen.update(fresh)
        pending += fresh


@dataclass(frozen=True)
class Rebuilding:
    """What only the rebuilding of some weights needs: names of tensors, positions of nodes, bytes for each weight.

    What several of the weights share is in `tensors` and `nodes`, and in no weight's `bytes`.
    """

    tensors: set[str]
    nodes: set[int]
    bytes: dict[str, int]


def rebuilding(graph: onnx.GraphProto, names: Iterable[str], reader: TensorReader) -> Rebuilding:
    """Find the nodes and tensors from which these values of the graph are made, and nothing else is."""
    producers = {output: node for node in graph.node for output in node.output}
    made = {name: set(ancestors(name, producers)) for name in names if name in producers}
    users = Counter(value for values in made.values() for value in values)
    nodes = {place for place, node in enumerate(graph.node) if any(output in users for output in node.output)}
    elsewhere = {value for place, node in enumerate(graph.node) if place not in nodes for value in node.input}
    elsewhere |= {item.name for item in graph.output}
    sizes = {tensor.name: reader.size(tensor) for tensor in graph.initializer}
    sizes |= {tensor.values.name: tensor.ByteSize() for tensor in graph.sparse_initializer}
    sizes |= {node.output[0]: node.ByteSize() for place, node in enumerate(graph.node) if place in nodes}
    own = {name: sum(sizes.get(value, 0) for value in made[name] if users[value] == 1) for name in made}
    tensors = {value for value in users if value not in producers and value not in elsewhere}
    return Rebuilding(tensors, nodes, own)
