"""Whether a model holds what it says: texts that are texts, tensors with as many values as their shapes have."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from sparsify_fx.onnx_tools.view import subgraphs

_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data", TensorProto.STRING: "string_data",
    TensorProto.COMPLEX64: "float_data", TensorProto.COMPLEX128: "double_data",
}  # fmt: skip
"""Where values of a type lie that are not raw; those of all others in `int32_data`."""

_PARTS = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
"""Types of which several entries share a byte, or an entry of `int32_data`."""


def damaged_tensor(model: onnx.ModelProto) -> str | None:
    """What is wrong with the first tensor whose data does not fit its shape or type; None when all do.

    External data, which may be elsewhere, counts as sound where its length, if it is told, fits.

    >>> tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, raw_data=bytes(8))
    >>> damaged_tensor(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])))
    "tensor 'w' of shape [3] has 8 bytes of data, which should be 12"
    """
    for graph in _graphs(model):
        for tensor in _tensors(graph):
            if (reason := _fault(tensor)) is not None:
                return reason
    return None


def damaged_text(model: onnx.ModelProto) -> str | None:
    """What is wrong with the first name or text that is no UTF-8; None when all are.

    protobuf reads such fields as bytes, which fail somewhere else later.
    """
    # Without recursion: a hostile file nests deeper than Python goes.
    waiting: list[Message] = [model]
    while waiting:
        part = waiting.pop()
        # By the descriptors, so that fields of onnx versions to come are looked at too.
        for field in part.DESCRIPTOR.fields:
            if field.type == field.TYPE_STRING and not _is_text(part, field.name):
                return f"{type(part).__name__}.{field.name} is no text"
            if field.type == field.TYPE_MESSAGE:
                value = getattr(part, field.name)
                # Repeated messages, or a single one that is set: unset ones hold unset
                # ones without end (the type of the entries of a type).
                waiting += (
                    value
                    if hasattr(value, "extend")
                    else [value]
                    if part.HasField(field.name)
                    else []
                )
    return None


def _is_text(part: Message, name: str) -> bool:
    """Whether a field that is declared a string holds text, in all its entries."""
    try:
        # Bytes that are no UTF-8 come back as bytes, or raise when they are read, by protobuf's version.
        value = getattr(part, name)
        return all(
            isinstance(each, str)
            for each in ([value] if isinstance(value, str | bytes) else value)
        )
    except UnicodeDecodeError:
        return False


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The main graph, the bodies of functions, and all graphs inside their nodes, however deep."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [
        model.graph,
        *model.functions,
    ]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            waiting += subgraphs(node)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
    for node in graph.node:
        yield from (
            attribute.t for attribute in node.attribute if attribute.HasField("t")
        )


def _fault(tensor: TensorProto) -> str | None:
    """What is wrong with one tensor."""
    # 1. The shape and the type. Two negative sides would make the product below positive again.
    what = f"tensor {tensor.name!r} of shape {list(tensor.dims)}"
    if min(tensor.dims, default=0) < 0:
        return f"{what} has a negative side"
    try:
        dtype, kind = (
            helper.tensor_dtype_to_np_dtype(tensor.data_type),
            TensorProto.DataType.Name(tensor.data_type),
        )
    except (KeyError, ValueError, TypeError):
        return f"{what} has the unknown type {tensor.data_type}"

    # 2. How many bytes that takes, with types that share bytes rounded up. Python's
    # numbers do not overflow, as those of a hostile shape would in C.
    entries, together = math.prod(tensor.dims), _PARTS.get(kind, 1)
    bytes_needed = (
        -(-entries // together) if together > 1 else entries * np.dtype(dtype).itemsize
    )

    # 3. Data in another file, whose length may be told here.
    if tensor.data_location == TensorProto.EXTERNAL:
        lengths = [each.value for each in tensor.external_data if each.key == "length"]
        fits = all(each == str(bytes_needed) for each in lengths)
        return (
            None
            if fits
            else f"{what} has {lengths[0]} bytes of external data, which should be {bytes_needed}"
        )

    # 4. Raw data, also when it is empty.
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
        return (
            None
            if held == bytes_needed
            else f"{what} has {held} bytes of data, which should be {bytes_needed}"
        )

    # 5. Typed fields. Complex numbers are two each; half precision lies in
    # `int32_data`, one an entry.
    numbers = entries * (2 if kind.startswith("COMPLEX") else 1)
    held, needed = (
        len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))),
        -(-numbers // together),
    )
    return (
        None
        if held == needed
        else f"{what} has {held} values, which should be {needed}"
    )
