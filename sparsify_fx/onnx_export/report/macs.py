"""Multiply-adds of the layers of an ONNX graph, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper

from sparsify_fx.onnx_export.report.rows import LayerRow
from sparsify_fx.onnx_tools.shapes import infer_shapes, skeleton
from sparsify_fx.onnx_tools.view import input_of
from sparsify_fx.onnx_tools.weights import LAYOUT
from sparsify_fx.passes.onnx_graph.macs import weight_places

Shape = tuple[int, ...]


def layer_macs(
    model: onnx.ModelProto, rows: Sequence[LayerRow], inputs: Mapping[str, Shape]
) -> dict[str, int]:
    """Multiply-adds for one sample of every weight whose layers have known shapes; the others are left out.

    Conv: weight size * output positions; ConvTranspose: weight size * input positions; MatMul and Gemm: weight size *
    output rows; recurrent: weight size * steps. `rows` name and size the weights, which `model` may lack; `inputs`:
    shapes to use for inputs of the graph. A weight that several layers use counts for each.
    """
    # 1. Shapes for one set of sizes, in numbers.
    shapes = _shapes(model, rows, inputs)
    sizes = {row.name: row.size for row in rows}

    # 2. A weight may be transposed or dequantized on its way: back from the operand to its name.
    sources = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type in LAYOUT and node.input
    }

    # 3. Divided by the first axis of the first input that is no weight, so that figures
    # are of one sample, whatever batch the file fixes.
    batch = next(
        (
            shapes[i.name][0]
            for i in model.graph.input
            if shapes.get(i.name) and i.name not in sizes
        ),
        1,
    )
    found: dict[str, int] = {}
    for node in model.graph.node:
        for operand, times in _uses(node, shapes):
            name = node.input[operand]
            while name in sources:
                name = sources[name]
            if name in sizes:
                found[name] = found.get(name, 0) + sizes[name] * times // max(1, batch)
    return found


def _uses(
    node: onnx.NodeProto, shapes: Mapping[str, Shape]
) -> Iterator[tuple[int, int]]:
    """(which input is a weight, how many times each of its entries is used) for the whole batch."""
    if node.op_type in ("LSTM", "GRU", "RNN"):
        if data := shapes.get(input_of(node, 0)):
            # Steps times batch: each entry of both matrices is used once a step and sample.
            steps = math.prod(data[:2])
            yield from ((1, steps), (2, steps))
    elif (places := weight_places(node, shapes)) is not None:
        yield 1, math.prod(places)


def _shapes(
    model: onnx.ModelProto, rows: Sequence[LayerRow], inputs: Mapping[str, Shape]
) -> dict[str, Shape]:
    """The shapes that are known in all sizes; tensors of `rows` that the model lacks take part as inputs."""
    light = skeleton(model)
    graph = light.graph
    known = {item.name for item in (*graph.input, *graph.initializer)}
    for node in graph.node:
        known.update(node.output)
    # Packed weights are not in the graph as tensors; without them inference would stop at their layers.
    for row in rows:
        if row.name not in known:
            kind = {"float32": "float", "float64": "double"}.get(
                row.dtype, row.dtype
            ).upper()
            graph.input.append(
                helper.make_tensor_value_info(
                    row.name, onnx.TensorProto.DataType.Value(kind), list(row.shape)
                )
            )
            known.add(row.name)
    sizes = {
        item.name: _sizes(item, inputs.get(item.name)) for item in model.graph.input
    }
    found = {}
    for name, shape in infer_shapes(light, sizes).items():
        numbers = tuple(size for size in shape if isinstance(size, int))
        if len(numbers) == len(shape):
            found[name] = numbers
    return found


def _sizes(item: onnx.ValueInfoProto, shape: Shape | None) -> tuple[int | None, ...]:
    """The sizes of an input: these or, with None, 1 for a free first axis."""
    dims = item.type.tensor_type.shape.dim
    if shape is not None and len(shape) == len(dims):
        return shape
    return tuple(
        1 if axis == 0 and dim.dim_value <= 0 else None for axis, dim in enumerate(dims)
    )
