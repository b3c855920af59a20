"""Shapes of all values, inferred without copying the weights."""

from __future__ import annotations

import onnx

from sparsify_fx.errors import PassError

Shape = tuple[int | str | None, ...]
"""Sizes; a name for a dynamic axis, None for an unknown one."""

_SMALL = 1024  # shape inference reads the values of shapes, axes and pads; never those of weights


def infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shape of every value of the main graph whose rank is known; what cannot be inferred is missing.

    >>> node = onnx.helper.make_node("Relu", ["x"], ["y"])
    >>> value = onnx.helper.make_tensor_value_info
    >>> graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", 3])], [value("y", 1, None)])
    >>> infer_shapes(onnx.helper.make_model(graph))["y"]
    ('N', 3)
    """
    inferred = _infer(skeleton(model), strict=False)
    found = {}
    for item in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        if item.type.tensor_type.HasField("shape"):
            found[item.name] = tuple(_size(dim) for dim in item.type.tensor_type.shape.dim)
    for tensor in model.graph.initializer:
        found[tensor.name] = tuple(tensor.dims)
    return found


def shapes_fit(model: onnx.ModelProto) -> str | None:
    """None when onnx's strict shape inference accepts the graph, else its complaint."""
    try:
        _infer(skeleton(model), strict=True)
    except PassError as error:
        return str(error)
    return None


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large initializers as inputs, and without recorded shapes: a few KB."""
    bare = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name not in ("graph", "metadata_props", "doc_string"):
            getattr(bare, field.name).MergeFrom(value) if field.is_repeated else setattr(bare, field.name, value)
    graph, kept = model.graph, bare.graph
    kept.name = graph.name
    kept.node.extend(graph.node)
    kept.input.extend(graph.input)
    kept.output.extend(graph.output)
    given = {item.name for item in graph.input}
    for tensor in graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        if size <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            kept.initializer.append(tensor)
        elif tensor.name not in given:
            kept.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for sparse in graph.sparse_initializer:
        name, kind = sparse.values.name, sparse.values.data_type
        kept.input.append(onnx.helper.make_tensor_value_info(name, kind, list(sparse.dims)))
    return bare


def _infer(bare: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(
            bare, check_type=strict, strict_mode=strict, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        if strict:
            raise PassError(f"shapes: {error}") from error
        return bare
    return inferred


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    kind = dim.WhichOneof("value")
    return None if kind is None else getattr(dim, kind) or None if kind == "dim_param" else dim.dim_value
