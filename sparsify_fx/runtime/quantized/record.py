"""What a file says of quantized weights that sparse operators hold, so that they become codes again."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import NodeProto, TensorProto, numpy_helper

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools.view import attribute, input_of, is_standard
from sparsify_fx.runtime.quantized.codes import Scale
from sparsify_fx.runtime.quantized.layers import Weight

KEY = "sparsify_fx.quantized"
"""The entry of the metadata: by weight its DequantizeLinear and what that reads beside the codes."""

_INTEGERS = ("int8", "uint8")
# What json, base64, protobuf and numpy raise for what they cannot read.
_DAMAGE = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, DecodeError,
)  # fmt: skip


def write_record(
    model: onnx.ModelProto, weights: Mapping[str, Weight], held: Collection[str]
) -> None:
    """Note the quantized weights that sparse operators hold, in place."""
    entries = {name: _entry(weights[name]) for name in weights if name in held}
    if entries:
        item = model.metadata_props.add()
        item.key, item.value = KEY, json.dumps(entries)


def _entry(weight: Weight) -> dict[str, Any]:
    messages: list[Any] = [weight.node, *weight.tensors]
    node, *tensors = (
        base64.b64encode(each.SerializeToString()).decode() for each in messages
    )
    return {
        "node": node,
        "tensors": tensors,
        "type": str(weight.scale.zero_point.dtype),
    }


def quantized_weights(model: onnx.ModelProto) -> dict[str, Weight]:
    """The quantized weights that sparse operators hold, by name; none where the file speaks of none.

    Raises ExportError for an entry that is damaged.
    """
    text = next((item.value for item in model.metadata_props if item.key == KEY), "")
    if not text:
        return {}
    try:
        entries = json.loads(text)
        return {str(name): _weight(str(name), each) for name, each in entries.items()}
    except _DAMAGE as error:
        raise ExportError(
            f"what the file says of its quantized weights ({KEY}) is damaged ({error}); write the file again"
        ) from error


def _weight(name: str, entry: Mapping[str, Any]) -> Weight:
    node = NodeProto.FromString(base64.b64decode(entry["node"]))
    tensors = [TensorProto.FromString(base64.b64decode(t)) for t in entry["tensors"]]
    named = [each for each in node.input[1:] if each]
    if (
        not is_standard(node, "DequantizeLinear")
        or input_of(node, 0) != name
        or len(node.output) != 1
        or named != [each.name for each in tensors]
        or entry["type"] not in _INTEGERS
        or any(each.external_data for each in tensors)
    ):
        raise ValueError(f"the entry of {name!r} is not a DequantizeLinear of it")
    scale, *zero = map(numpy_helper.to_array, tensors)
    zero_point = zero[0] if zero else np.zeros((), entry["type"])
    if zero_point.dtype != entry["type"] or scale.dtype != np.float32:
        raise ValueError(f"the scale of {name!r} has another type")
    given = Scale(scale, zero_point, int(attribute(node, "axis", 1)))
    return Weight(node, tuple(tensors), given)


def with_codes(model: onnx.ModelProto) -> None:
    """Float32 weights that were codes once become codes again, with the nodes that dequantize them, in place.

    Raises ExportError for a damaged file.
    """
    weights = quantized_weights(model)
    graph = model.graph
    there = {tensor.name: tensor for tensor in graph.initializer}
    for name in weights.keys() & there.keys():
        try:
            codes = weights[name].scale.codes_of(numpy_helper.to_array(there[name]))
        except (ValueError, IndexError) as error:
            raise ExportError(
                f"{name}: its scale does not fit its values ({error}); write the file again"
            ) from error
        there[name].CopyFrom(numpy_helper.from_array(codes, name))
        for tensor in weights[name].tensors:
            if tensor.name not in there:
                graph.initializer.append(tensor)
                there[tensor.name] = tensor
    _read_through(graph, {n: w.node for n, w in weights.items() if n in there})
    kept = [item for item in model.metadata_props if item.key != KEY]
    entries = {item.key: item.value for item in kept}
    onnx.helper.set_model_props(model, entries)


def _read_through(graph: onnx.GraphProto, makers: Mapping[str, NodeProto]) -> None:
    """Who reads codes reads what these nodes make of them; each stands before the first reader."""
    nodes: list[NodeProto] = []
    made = set[str]()
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if name in makers and name not in made:
                nodes.append(makers[name])
                made.add(name)
        node.input[:] = [
            makers[name].output[0] if name in makers else name for name in node.input
        ]
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
