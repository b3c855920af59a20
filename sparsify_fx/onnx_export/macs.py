"""Multiply-adds of the layers of an ONNX graph, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper

from sparsify_fx.onnx_export.report import LayerRow
from sparsify_fx.onnx_export.weights import LAYOUT

_WHOLE = 4096
"""Bytes up to which a tensor goes into shape inference with its data: shapes and axes are read from there."""

Shape = tuple[int, ...]


def layer_macs(model: onnx.ModelProto, rows: Sequence[LayerRow], inputs: Mapping[str, Shape]) -> dict[str, int]:
    """Multiply-adds for one sample of every weight whose layers have known shapes; the others are left out.

    Conv: weight size * output positions; ConvTranspose: weight size * input positions; MatMul and Gemm: weight size *
    output rows; recurrent: weight size * steps. `rows` name and size the weights, which `model` may lack; `inputs`:
    shapes to use for inputs of the graph. A weight that several layers use counts for each.
    """
    shapes = _shapes(model, rows, inputs)
    sizes = {row.name: row.size for row in rows}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in LAYOUT and node.input}
    batch = next((shapes[i.name][0] for i in model.graph.input if shapes.get(i.name) and i.name not in sizes), 1)
    found: dict[str, int] = {}
    for node in model.graph.node:
        for operand, times in _uses(node, shapes):
            name = node.input[operand]
            while name in sources:
                name = sources[name]
            if name in sizes:
                found[name] = found.get(name, 0) + sizes[name] * times // max(1, batch)
    return found


def _uses(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Iterator[tuple[int, int]]:
    """(which input is a weight, how many times each of its entries is used) for the whole batch."""
    data = shapes.get(node.input[0]) if node.input else None
    output = shapes.get(node.output[0]) if node.output else None
    if node.op_type == "Conv" and output:
        yield 1, output[0] * math.prod(output[2:])
    elif node.op_type == "ConvTranspose" and data:
        yield 1, data[0] * math.prod(data[2:])
    elif node.op_type in ("MatMul", "Gemm") and output:
        yield 1, math.prod(output[:-1])
    elif node.op_type in ("LSTM", "GRU", "RNN") and data:
        yield 1, math.prod(data[:2])
        yield 2, math.prod(data[:2])


def _shapes(model: onnx.ModelProto, rows: Sequence[LayerRow], inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """Every shape that onnx can infer; large tensors take part as inputs, so that nothing large is copied."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    small = [
        tensor for tensor in model.graph.initializer if len(tensor.raw_data) <= _WHOLE and not tensor.external_data
    ]
    graph.initializer.extend(small)
    known = {tensor.name for tensor in small}
    for row in rows:
        if row.name not in known:
            kind = {"float32": "float", "float64": "double"}.get(row.dtype, row.dtype).upper()
            graph.input.append(
                helper.make_tensor_value_info(row.name, onnx.TensorProto.DataType.Value(kind), list(row.shape))
            )
            known.add(row.name)
    for item in model.graph.input:
        if item.name not in known:
            graph.input.append(_with_shape(item, inputs.get(item.name)))
    graph.output.extend(helper.make_empty_tensor_value_info(item.name) for item in model.graph.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # a foreign operator or a contradiction: what is known of the inputs is all there is
        inferred = graph
    found = {}
    for item in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[item.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return found


def _with_shape(item: onnx.ValueInfoProto, shape: Shape | None) -> onnx.ValueInfoProto:
    """The input with this shape or, with None, a free first axis as 1."""
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(item)
    dims = copied.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if shape is not None and len(shape) == len(dims):
            dim.dim_value = shape[axis]
        elif axis == 0 and not dim.HasField("dim_value"):
            dim.dim_value = 1
    return copied
