"""Layers of an ONNX model become the sparse operators of this package, and dense ones again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.runtime.candidates import DOMAIN, Candidate, attributes, candidate_of, sparse_node
from sparsify_fx.runtime.cost import estimate, measure
from sparsify_fx.runtime.encode import decode_gaps, packed_weight
from sparsify_fx.runtime.fuse import Uses, read_names, tail_of


def to_sparse(
    model: onnx.ModelProto,
    choose: Callable[[Candidate], bool] | None = None,
    *,
    autotune: bool = False,
    batch: int = 1,
    threads: int = 1,
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` with sparse operators where they are faster, and the names of the weights they hold.

    Additions of equal shape and activations (ReLU, ReLU6, SiLU, GELU) behind a layer become part of it. All other
    nodes stay as they are; activations stay in NCHW, so nothing is converted between sparse and dense layers.

    Args:
        model: a model with dense weights as initializers.
        choose: which layers to take; the default compares estimated times for dense and sparse.
        autotune: measure each layer on this machine instead, with `threads` threads.
        batch: the batch size to expect, where the model leaves it open.

    Raises ExportError when `autotune` meets a layer whose input has an unknown size.

    >>> import numpy as np
    >>> weight = numpy_helper.from_array(np.eye(512, dtype=np.float32), "w")
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 512]) for name in "xy")
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]))
    >>> sparse, names = to_sparse(model)
    >>> names, sparse.graph.node[0].op_type, to_dense(sparse).graph.node[0].op_type
    (['w'], 'SparseMatMul', 'MatMul')
    """
    if choose is None:
        choose = (
            (lambda layer: measure(layer, batch=batch, threads=threads).sparse_wins)
            if autotune
            else (lambda layer: estimate(layer, batch).sparse_wins)
        )
    rewritten = _copy(model)
    graph = rewritten.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    uses = Uses(rewritten)
    taken: set[int] = set()
    replaced: dict[int, list[NodeProto]] = {}
    packed: dict[str, list[TensorProto]] = {}
    for node in graph.node:
        layer = candidate_of(node, constants, uses)
        if layer is None or not choose(layer):
            continue
        tail = tail_of(node, uses, constants, taken)
        gone = (node, *tail.nodes)
        taken.update(id(each) for each in gone)
        replaced.update({id(each): [] for each in gone})
        replaced[id(gone[-1])] = [sparse_node(layer, tail)]
        packed[node.input[1]] = packed_weight(node.input[1], layer.weight)
    nodes = [new for node in graph.node for new in replaced.get(id(node), [node])]
    _replace(rewritten, nodes, [tensor for tensors in packed.values() for tensor in tensors])
    if packed and all(opset.domain != DOMAIN for opset in rewritten.opset_import):
        rewritten.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return rewritten, list(packed)


def to_dense(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in standard operators alone, which any onnxruntime runs: the way back from `to_sparse`."""
    dense = _copy(model)
    constants = {tensor.name: tensor for tensor in dense.graph.initializer}
    nodes: list[NodeProto] = []
    weights: dict[str, TensorProto] = {}
    for node in dense.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        name = node.input[1].removesuffix(".values")
        values, gaps = (numpy_helper.to_array(constants[each]) for each in node.input[1:3])
        weight = decode_gaps(values, gaps, tuple(attributes(node)["weight_shape"]))
        if node.op_type == "SparseMatMul" and attributes(node).get("transB", 0):
            weight = weight.T.copy()
        weights[name] = numpy_helper.from_array(weight, name)
        nodes += _dense_nodes(node, name, weights)
    _replace(dense, nodes, weights.values())
    kept = [opset for opset in dense.opset_import if opset.domain != DOMAIN]
    del dense.opset_import[:]
    dense.opset_import.extend(kept)
    return dense


def _dense_nodes(node: NodeProto, weight: str, weights: dict[str, TensorProto]) -> list[NodeProto]:
    """The standard operators of one sparse one: layer, bias, residual, activation."""
    _, _, _, bias, residual = (*node.input, "", "")[:5]
    output, activation = node.output[0], attributes(node).get("activation", b"").decode()
    conv = node.op_type == "SparseConv"
    steps = [("Conv" if conv else "MatMul", [weight, bias] if conv and bias else [weight])]
    steps += [("Add", [bias])] if bias and not conv else []
    steps += [("Add", [residual])] if residual else []
    steps += [(activation, [])] if activation in ("Relu", "Gelu") else []
    if activation == "Relu6":
        for limit, value in (("sparsify_fx.zero", 0.0), ("sparsify_fx.six", 6.0)):
            weights[limit] = helper.make_tensor(limit, TensorProto.FLOAT, [], [value])
        steps.append(("Clip", ["sparsify_fx.zero", "sparsify_fx.six"]))
    steps += [("Sigmoid", [])] if activation == "Silu" else []
    nodes, name = [], node.input[0]
    for number, (kind, others) in enumerate(steps):
        final = number + 1 == len(steps) and activation != "Silu"
        following = output if final else f"{output}.{number}"
        nodes.append(helper.make_node(kind, [name, *others], [following], name=node.name if number == 0 else ""))
        name = following
    if activation == "Silu":
        nodes.append(helper.make_node("Mul", [nodes[-1].input[0], name], [output]))
    if conv:
        nodes[0].attribute.extend(a for a in node.attribute if a.name not in ("activation", "weight_shape"))
    return nodes


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _replace(model: onnx.ModelProto, nodes: Iterable[NodeProto], weights: Iterable[TensorProto]) -> None:
    """New nodes and weights into the model, in place; initializers that nothing reads any more go."""
    graph = model.graph
    # Copies, since clearing a field of a message ends the life of what it held.
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    read = read_names(graph)
    kept = [TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *weights])
