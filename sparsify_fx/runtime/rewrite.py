"""Layers of an ONNX model become the sparse operators of this module, and dense ones again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from sparsify_fx.runtime.encode import encode_gaps
from sparsify_fx.runtime.fuse import Tail, Uses, tail_of

DOMAIN = "sparsify_fx"


@dataclass(frozen=True)
class Candidate:
    """A layer that a sparse kernel can compute: its node, its weight, and the shape of its output."""

    node: NodeProto
    weight: NDArray[np.float32]
    output_shape: tuple[object, ...] | None

    @property
    def density(self) -> float:
        """The fraction of weights that are not zero."""
        return np.count_nonzero(self.weight) / self.weight.size


def to_sparse(model: onnx.ModelProto, choose: Callable[[Candidate], bool]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` whose layers that `choose` takes are sparse operators, and the names of their weights."""
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    uses = Uses(rewritten)
    taken: set[int] = set()
    replaced: dict[int, list[NodeProto]] = {}
    packed: dict[str, list[onnx.TensorProto]] = {}
    for node in graph.node:
        candidate = candidate_of(node, constants, uses)
        if candidate is None or not choose(candidate):
            continue
        tail = tail_of(node, uses, constants, taken)
        gone = (node, *tail.nodes)
        taken.update(id(each) for each in gone)
        replaced.update({id(each): [] for each in gone})
        replaced[id(gone[-1])] = [_sparse_node(node, candidate.weight, tail)]
        packed[node.input[1]] = _packed(node.input[1], candidate.weight)
    nodes = [new for node in graph.node for new in replaced.get(id(node), [node])]
    _replace(rewritten, nodes, packed)
    return rewritten, list(packed)


def candidate_of(node: NodeProto, constants: dict[str, NDArray[np.float32]], uses: Uses) -> Candidate | None:
    """The node as a candidate, when its operator, its weight and its attributes are of a supported kind."""
    weight = constants.get(node.input[1]) if len(node.input) > 1 else None
    if node.domain or weight is None or weight.dtype != np.float32:
        return None
    found = attributes(node)
    if node.op_type == "Conv":
        fits = weight.ndim in (3, 4) and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    elif node.op_type == "Gemm":
        plain = found.get("alpha", 1.0) == 1.0 and found.get("beta", 1.0) == 1.0 and not found.get("transA", 0)
        bias = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        rows = weight.shape[0 if found.get("transB", 0) else 1]
        fits = plain and (len(node.input) < 3 or not node.input[2] or (bias is not None and bias.shape == (rows,)))
    else:
        fits = node.op_type == "MatMul" and weight.ndim == 2
    return Candidate(node, weight, uses.shapes.get(node.output[0])) if fits else None


def attributes(node: NodeProto) -> dict[str, object]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _sparse_node(node: NodeProto, weight: NDArray[np.float32], tail: Tail) -> NodeProto:
    kept = {"Conv": ("strides", "pads", "dilations", "group"), "Gemm": ("transB",), "MatMul": ()}[node.op_type]
    name = node.input[1]
    bias = tail.bias or (node.input[2] if len(node.input) > 2 else "")
    inputs = [node.input[0], f"{name}.values", f"{name}.gaps", bias, tail.residual]
    while not inputs[-1]:
        inputs.pop()
    kind = "SparseConv" if node.op_type == "Conv" else "SparseMatMul"
    sparse = helper.make_node(kind, inputs, [tail.output], name=node.name, domain=DOMAIN, weight_shape=weight.shape)
    sparse.attribute.extend(attribute for attribute in node.attribute if attribute.name in kept)
    if tail.activation:
        sparse.attribute.append(helper.make_attribute("activation", tail.activation))
    return sparse


def _packed(name: str, weight: NDArray[np.float32]) -> list[onnx.TensorProto]:
    values, gaps = encode_gaps(weight)
    return [numpy_helper.from_array(values, f"{name}.values"), numpy_helper.from_array(gaps, f"{name}.gaps")]


def _replace(model: onnx.ModelProto, nodes: list[NodeProto], packed: dict[str, list[onnx.TensorProto]]) -> None:
    """New nodes and weights into the model; weights that no node reads any more go."""
    graph = model.graph
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in packed or tensor.name in read]
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for tensors in packed.values():
        graph.initializer.extend(tensors)
    if packed and all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
