"""The shapes of the values of an ONNX graph, as far as they can be inferred."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

Shape = tuple[object, ...]

_WHOLE = 4096
"""Bytes up to which a tensor goes into shape inference with its data: shapes and axes are read from there."""


def infer_shapes(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Shape]:
    """The shape of every value that onnx can infer: numbers, names of open axes, None where nothing is known.

    `inputs`: sizes to use for inputs of the graph. Large tensors take part without their data, so nothing large is
    copied.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, sizes = light.graph, dict(inputs or {})
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.value_info.extend([] if sizes else model.graph.value_info)
    graph.output.extend(helper.make_empty_tensor_value_info(item.name) for item in model.graph.output)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _WHOLE and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    known = {item.name for item in graph.input}
    for item in model.graph.input:
        if item.name not in known:
            graph.input.append(_with_sizes(item, sizes.get(item.name)))
    if not sizes:
        del graph.output[:]
        graph.output.extend(model.graph.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # a contradiction in a foreign file: what it says about itself is all there is
        inferred = graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: _shape(value) for value in values if value.type.tensor_type.HasField("shape")}


def _with_sizes(item: onnx.ValueInfoProto, sizes: tuple[int, ...] | None) -> onnx.ValueInfoProto:
    """The input with these sizes, where they fit."""
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(item)
    dims = copied.type.tensor_type.shape.dim
    if sizes is not None and len(sizes) == len(dims):
        for dim, size in zip(dims, sizes, strict=True):
            dim.dim_value = size
    return copied


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)
