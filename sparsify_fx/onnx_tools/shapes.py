"""Shapes of all values, inferred without copying the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from sparsify_fx.errors import PassError
from sparsify_fx.onnx_tools.outside import copy_but

Shape = tuple[int | str | None, ...]
"""Sizes; a name for a dynamic axis, None for an unknown one."""

_SMALL = 1024  # shape inference reads the values of shapes, axes and pads; never those of weights


def infer_shapes(
    model: onnx.ModelProto,
    sizes: Mapping[str, Shape] | None = None,
    *,
    recorded: bool = False,
) -> dict[str, Shape]:
    """The shape of every value of the main graph whose rank is known; what cannot be inferred is missing.

    Args:
        model: the model, which stays as it is.
        sizes: sizes to use for inputs of the graph, where the rank fits and where they are numbers; what the file says
            about its outputs then counts no more.
        recorded: without `sizes`, start from the shapes that the file holds, which name more of the dynamic axes; they
            are wrong once a pass has changed the graph.

    >>> node = onnx.helper.make_node("Relu", ["x"], ["y"])
    >>> value = onnx.helper.make_tensor_value_info
    >>> graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["N", 3])], [value("y", 1, None)])
    >>> infer_shapes(onnx.helper.make_model(graph))["y"]
    ('N', 3)
    >>> infer_shapes(onnx.helper.make_model(graph), {"x": (8, None)})["y"]
    (8, 3)
    """
    # 1. A copy without weights, on which inference is fast and may write.
    bare = skeleton(model)
    # 2. Sizes that are asked for win: what the file recorded may contradict them.
    if sizes is not None:
        _set_sizes(bare.graph, sizes)
    elif recorded:
        bare.graph.value_info.extend(model.graph.value_info)
    # 3. Infer, and read what is known. Small initializers are not among the items.
    inferred = _infer(bare, strict=False)
    found = {}
    for item in (
        *inferred.graph.input,
        *inferred.graph.value_info,
        *inferred.graph.output,
    ):
        if item.type.tensor_type.HasField("shape"):
            found[item.name] = tuple(
                _size(dim) for dim in item.type.tensor_type.shape.dim
            )
    for tensor in model.graph.initializer:
        found[tensor.name] = tuple(tensor.dims)
    return found


def infer_kinds(model: onnx.ModelProto) -> dict[str, bool]:
    """Whether each value of the main graph is a tensor, not a sequence, map or optional; unknown ones are missing."""
    inferred = _infer(skeleton(model), strict=False)
    items = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {
        item.name: item.type.HasField("tensor_type")
        for item in items
        if item.type.WhichOneof("value")
    }


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
    # Functions stay: inference looks into them.
    copy_but(model, bare, {"graph", "metadata_props", "doc_string"})
    graph, kept = model.graph, bare.graph
    kept.name = graph.name
    kept.node.extend(graph.node)
    kept.input.extend(graph.input)
    kept.output.extend(graph.output)
    # An initializer that is an input too (its default) must not be declared twice.
    given = {item.name for item in graph.input}
    for tensor in graph.initializer:
        if (
            math.prod(tensor.dims) <= _SMALL
            and tensor.data_location != onnx.TensorProto.EXTERNAL
        ):
            kept.initializer.append(tensor)
        # A weight becomes an input of its type and shape, which is all that inference reads of it.
        elif tensor.name not in given:
            kept.input.append(
                onnx.helper.make_tensor_value_info(
                    tensor.name, tensor.data_type, list(tensor.dims)
                )
            )
    for sparse in graph.sparse_initializer:
        name, kind = sparse.values.name, sparse.values.data_type
        kept.input.append(
            onnx.helper.make_tensor_value_info(name, kind, list(sparse.dims))
        )
    for item in (*bare.graph.input, *bare.graph.output):
        _open_axes(item)
    return bare


def _open_axes(item: onnx.ValueInfoProto) -> None:
    """Axes of length -1, as some exporters write open ones, become axes without a length."""
    for dim in item.type.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.Clear()


def _set_sizes(graph: onnx.GraphProto, sizes: Mapping[str, Shape]) -> None:
    """Write sizes into the inputs; the recorded shapes of the outputs, which may contradict them, go."""
    for item in graph.input:
        given, dims = sizes.get(item.name, ()), item.type.tensor_type.shape.dim
        # Sizes of another rank are left aside: they belong to another reading of the input.
        if len(given) == len(dims):
            for dim, size in zip(dims, given, strict=True):
                if isinstance(size, int):
                    dim.dim_value = size
    # An output that was recorded for the old sizes would contradict what is inferred for the new.
    names = [item.name for item in graph.output]
    del graph.output[:]
    graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names
    )


def _infer(bare: onnx.ModelProto, strict: bool) -> onnx.ModelProto:
    try:
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(
            # `data_prop` follows the values of shapes, so that a Reshape by a computed one has a size.
            bare,
            check_type=strict,
            strict_mode=strict,
            data_prop=True,
        )
    except Exception as error:  # a contradiction in a foreign file: what it says about itself is all there is
        if strict:
            raise PassError(f"shapes: {error}") from error
        return bare
    return inferred


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None
