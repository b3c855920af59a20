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
from sparsify_fx.runtime.fusion.join import is_depthwise
from sparsify_fx.runtime.library import library

LANES = 16
FEW_PIXELS = (
    8  # of AVX2, as in csrc/matmul.cpp; twice as many take as long with AVX-512
)
INTEGERS, DEQUANTIZE, QUANTIZE = 0.55, 0.1, 0.18
"""Of a quantized layer: the time in integers over that in float32; nanoseconds of a value around a sparse one."""
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

    dense  = max(products / (16 · 6.1), 0.3 · weights, 0.2 · values)
    sparse = vectors · (0.32 · non-zeros + copy · planes + 1.9 · rows) + non-zeros + 0.06 · values + 4000

    with products and weights of the dense layer, `values` read and written by a convolution, vectors of 16 output
    pixels, and the cost of copying 16 inputs of a plane: none for 1x1 kernels on whole vectors, 2.4 for others, 5.5 for
    larger kernels, 17 with a stride, 7.6 for matrix products. Layers that are `chained` have a position more in every
    line, copy only with a stride (6, for 1x1 kernels 4), and take 1500 in the place of 4000. A product with one row
    takes 0.6 · non-zeros, and with up to eight 1.0 · non-zeros. A convolution with a group per channel that has a
    kernel of its own (`join.is_depthwise`) takes 0.12 · values + 0.29 · taps · vectors in whole lines + 4000, whatever
    its zeros.

    Between activations in 8 bits the dense layer computes in integers, in 0.55 of the time, and around the sparse one
    values are dequantized and quantized: 0.1 for each that is read and 0.18 for each that is written.

    Fitted on the layers of resnet50, mobilenetv2, deit_small and resnet20 at 50 to 98 % zeros (a core at about
    3.5 GHz). On other processors the ratio of both is what should carry over; `measure` looks instead.
    """
    size = _size_of(layer, batch)
    times = _in_floats(layer, size)
    return in_8_bits(layer, times, batch) if layer.quantized else times


def in_8_bits(layer: Candidate, times: Times, batch: int = 1) -> Times:
    """What a layer takes between activations in 8 bits, of what it takes in float32; `estimate` explains it."""
    read, written = (
        batch
        * math.prod(length for length in (shape or ())[1:] if isinstance(length, int))
        for shape in (layer.input_shape, layer.output_shape)
    )
    around = DEQUANTIZE * read + QUANTIZE * written
    return Times(INTEGERS * times.dense, times.sparse + around)


def _in_floats(layer: Candidate, size: _Size) -> Times:
    # The formulas are explained above; each branch is a kernel of its own in csrc.
    nonzeros, weights = np.count_nonzero(layer.weight), layer.weight.size
    # Whichever limits: arithmetic, reading the weights, or reading and writing the
    # values.
    dense = max(size.pixels * weights / (LANES * 6.1), 0.3 * weights, 0.2 * size.values)
    if size.lines:
        taps = math.prod(layer.weight.shape[2:])
        return Times(dense, 0.12 * size.values + 0.29 * taps * size.lines + 4000)
    # Too few rows for tiles: the weight is read once, whatever their number.
    if layer.node.op_type != "Conv" and size.pixels <= FEW_PIXELS:
        return Times(dense, (0.6 if size.pixels == 1 else 1.0) * nonzeros + 4000)
    products = size.vectors * (
        0.32 * nonzeros + size.copy * size.planes + 1.9 * size.rows
    )
    return Times(dense, products + nonzeros + 0.06 * size.values + size.call)


@dataclass(frozen=True)
class _Size:
    """What the estimate needs of a layer: rows, planes that are read (phases of a stride counted each), and so on."""

    rows: int
    planes: float
    pixels: int
    values: float  # read and written; 0 for matrix products
    copy: float  # nanoseconds for 16 inputs of a plane
    vectors: int  # of output positions
    call: float  # nanoseconds of a pass over the layer, whatever its size
    lines: float = 0  # of a depthwise convolution: vectors of output, each in one line


def _size_of(layer: Candidate, batch: int) -> _Size:
    found = attributes(layer.node)
    weight = layer.weight
    if layer.node.op_type != "Conv":
        # Gemm's transB stores the weight as [N, K], where all others have [K, N].
        flip = layer.node.op_type == "Gemm" and found.get("transB", 0)
        columns, rows = weight.shape[::-1] if flip else weight.shape
        pixels = _pixels(layer.output_shape, slice(1, -1), batch)
        return _Size(
            rows, columns + rows, pixels, 0.0, 7.6, math.ceil(pixels / LANES), 4000
        )
    group = int(found.get("group", 1))
    rows, channels = weight.shape[:2]
    taps, stride = math.prod(weight.shape[2:]), max(found.get("strides", [1]))
    pixels = _pixels(layer.output_shape, slice(2, None), batch)
    whole = pixels // batch % LANES == 0
    # In the order of what dominates: phases of a stride, taps of a kernel, and whether
    # lines fill whole vectors.
    copy = (
        17.0
        if stride > 1 and taps > 1
        else 9.4
        if stride > 1
        else 5.5
        if taps > 1
        else 0.0
        if whole
        else 2.4
    )
    vectors, call = math.ceil(pixels / LANES), 4000.0
    # In planes every line has a position more, and only strides are packed.
    if layer.chained:
        width = _width(layer)
        vectors = batch * math.ceil(pixels // batch // width * (width + 1) / LANES)
        copy, call = (0.0 if stride == 1 else 6.0 if taps > 1 else 4.0), 1500.0
    # A stride cuts each plane into phases, of which a kernel of few taps reads only some.
    phases = min(taps, stride**2) if weight.ndim == 4 else min(taps, stride)
    # Planes are copied if any row reads them: of rows · taps chances each is a non-zero with the layer's density.
    used = 1 - (1 - layer.density) ** (rows / group * taps / phases)
    values = float(
        batch * channels * group * stride ** (weight.ndim - 2) * (pixels // batch)
        + rows * pixels
    )
    lines = (
        rows * pixels / _width(layer) * math.ceil(_width(layer) / LANES)
        if is_depthwise(weight.shape, found)
        else 0.0
    )
    return _Size(
        rows,
        channels * group * phases * used,
        pixels,
        values,
        copy,
        vectors,
        call,
        lines,
    )


def _width(layer: Candidate) -> int:
    """Pixels of an output line; 1 where that is unknown."""
    last = layer.output_shape[-1] if layer.output_shape else None
    return last if isinstance(last, int) and last > 0 else 1


def _pixels(shape: tuple[object, ...] | None, axes: slice, batch: int) -> int:
    """Output pixels of a batch; axes of unknown length count as one."""
    return batch * max(
        1,
        math.prod(length for length in (shape or ())[axes] if isinstance(length, int)),
    )


def measure(
    layer: Candidate, *, batch: int = 1, threads: int = 1, runs: int = 15
) -> Times:
    """Median nanoseconds of the layer alone, dense and sparse in turn, in onnxruntime on this machine.

    A layer between activations in 8 bits is measured in float32, and then scaled as `estimate` does it.

    Raises ExportError when the shape of the layer's input is not known from the model.
    """
    given = layer.input_shape or ()
    opened = (batch, *given[1:]) if given and not isinstance(given[0], int) else given
    # A length that is missing would be made up, and with it the result of the
    # measurement.
    shape = [length for length in opened if isinstance(length, int)]
    if not shape or len(shape) != len(given):
        raise ExportError(
            f"cannot measure layer {layer.node.name!r}: the shape of its input is {layer.input_shape}; only its first "
            "dimension may be open. Export with fixed sizes, or without autotune"
        )
    feed = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
    sessions = [_alone(layer, shape, sparse, threads) for sparse in (False, True)]
    taken: list[list[int]] = [[], []]
    # In turns, so that both meet the same state of the machine; the first two of each
    # warm up.
    for _ in range(runs + 2):
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter_ns()
            session.run(None, feed)
            times.append(time.perf_counter_ns() - start)
    times = Times(*(statistics.median(each[2:]) for each in taken))
    return in_8_bits(layer, times, batch) if layer.quantized else times


def _alone(
    layer: Candidate, shape: list[int], sparse: bool, threads: int
) -> onnxruntime.InferenceSession:
    """A session of this one layer."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    # Zeros as bias: their number counts for the time, their values do not.
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
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
