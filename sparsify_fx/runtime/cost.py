"""How long a layer takes dense and sparse: an estimate from its shape and density, or a measurement on this machine."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.runtime.candidates import Candidate, attributes, sparse_node
from sparsify_fx.runtime.encode import packed_weight
from sparsify_fx.runtime.library import library

LANES = 16
MARGIN = 0.9
"""A layer becomes sparse when that saves at least this part of its time: estimates and timers are not exact."""


@dataclass(frozen=True)
class Times:
    """Nanoseconds of one layer; measured or estimated, so only their ratio means much."""

    dense: float
    sparse: float

    @property
    def sparse_wins(self) -> bool:
        """Whether the sparse kernel is faster by more than the margin."""
        return self.sparse < MARGIN * self.dense


def estimate(layer: Candidate, batch: int = 1) -> Times:
    """Nanoseconds of a layer on one AVX-512 core, from its shape and density alone.

    dense  = max(products / (16 · 6.1), 0.3 · weights)                    products and weights of the dense layer
    sparse = vectors · (non-zeros / 2.8 + c · columns + rows)             vectors of 16 output pixels

    with c the cost of gathering 16 inputs: 1 for 1x1 kernels and matrix products, 3.5 for larger kernels, 7 with a
    stride. Fitted on single layers of resnet50 at 80 to 98 % zeros (a core at about 3 GHz). On other processors the
    ratio of both is what should carry over; `measure` looks instead.
    """
    weight = layer.weight
    found = attributes(layer.node)
    group = int(found.get("group", 1)) if layer.node.op_type == "Conv" else 1
    if layer.node.op_type == "Conv":
        rows, columns = weight.shape[0], int(np.prod(weight.shape[1:]))
        strided = max(found.get("strides", [1])) > 1
        gather = 7.0 if strided else 1.0 if max(weight.shape[2:]) == 1 else 3.5
        known = [d for d in (layer.output_shape or ())[2:] if isinstance(d, int)]
    else:
        flip = layer.node.op_type == "Gemm" and found.get("transB", 0)
        columns, rows = weight.shape[::-1] if flip else weight.shape
        gather = 1.0
        known = [d for d in (layer.output_shape or ())[1:-1] if isinstance(d, int)]
    pixels = batch * max(1, math.prod(known))
    vectors = math.ceil(pixels / LANES)
    used = min(1.0, layer.density * rows / group) * columns * group
    dense = max(pixels * weight.size / (LANES * 6.1), 0.3 * weight.size)
    return Times(dense, vectors * (np.count_nonzero(weight) / 2.8 + gather * used + rows))


def measure(layer: Candidate, *, batch: int = 1, threads: int = 1, runs: int = 15) -> Times:
    """Median nanoseconds of the layer alone, dense and sparse in turn, in onnxruntime on this machine.

    Raises ExportError when the shape of the layer's input is not known from the model.
    """
    given = layer.input_shape or ()
    opened = (batch, *given[1:]) if given and not isinstance(given[0], int) else given
    shape = [length for length in opened if isinstance(length, int)]
    if not shape or len(shape) != len(given):
        raise ExportError(
            f"cannot measure layer {layer.node.name!r}: the shape of its input is {layer.input_shape}; only its first "
            "dimension may be open. Export with fixed sizes, or without autotune"
        )
    feed = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
    sessions = [_alone(layer, shape, sparse, threads) for sparse in (False, True)]
    taken: list[list[int]] = [[], []]
    for _ in range(runs + 2):
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter_ns()
            session.run(None, feed)
            times.append(time.perf_counter_ns() - start)
    return Times(*(statistics.median(times[2:]) for times in taken))


def _alone(layer: Candidate, shape: list[int], sparse: bool, threads: int) -> onnxruntime.InferenceSession:
    """A session of this one layer."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    bias = node.input[2] if len(node.input) > 2 else ""
    name = node.input[1]
    weights = [numpy_helper.from_array(layer.weight, name)]
    if sparse:
        node = sparse_node(layer)
        weights = packed_weight(name, layer.weight)
    node.input[0] = "x"
    node.output[0] = "y"
    rows = layer.weight.shape[0]
    if layer.node.op_type == "Gemm" and not attributes(layer.node).get("transB", 0):
        rows = layer.weight.shape[1]
    if bias:
        weights.append(numpy_helper.from_array(np.zeros(rows, np.float32), bias))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "layer", [x], [y], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("sparsify_fx", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.register_custom_ops_library(library())
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
