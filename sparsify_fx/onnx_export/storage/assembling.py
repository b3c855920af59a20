"""The model with weights as they were chosen to be stored, in place of its initializers."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable

import onnx
from onnx import helper

from sparsify_fx.onnx_export.files.metadata import (
    WEIGHTS,
    get_metadata,
    put_metadata,
    stored_weights,
)
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.codecs.choosing import (
    Choice,
)
from sparsify_fx.onnx_export.storage.codecs.placing import DOMAIN, Stored, place
from sparsify_fx.onnx_export.storage.codecs.rebuilding import rebuilding
from sparsify_fx.onnx_export.tracing.trace import opset_of
from sparsify_fx.onnx_tools.outside import copy_but
from sparsify_fx.onnx_tools.view import names_in
from sparsify_fx.onnx_tools.weights import all_nodes


def with_choices(
    dense: onnx.ModelProto,
    chosen: dict[str, Choice],
    *,
    functions: bool,
    rounds: bool,
) -> onnx.ModelProto:
    """A copy of the model with the chosen parts in place of the initializers."""
    encoded, graph = shell(dense), dense.graph
    pairs = [(tensor, chosen[tensor.name]) for tensor in graph.initializer]
    stored = [
        Stored(t.name, _label(choice), math.prod(t.dims), choice.parts)
        for t, choice in pairs
        if choice.parts
    ]
    placed = place(
        stored, _prefix(graph), opset_of(dense), functions=functions, rounds=rounds
    )
    _forget_names(placed.nodes, {node.name for node in all_nodes(graph.node)})
    encoded.graph.initializer.extend(
        tensor for tensor, choice in pairs if choice.parts is None
    )
    # One by one: all of them are as large as the file that comes of it, and would be in
    # memory twice.
    placed.move_tensors(encoded.graph)
    encoded.graph.sparse_initializer.extend([*graph.sparse_initializer, *placed.sparse])
    _forget_types(encoded.graph, {each.values.name for each in placed.sparse})
    # What rebuilds weights comes first: ONNX wants a value made before a node reads it.
    encoded.graph.node.extend([*placed.nodes, *graph.node])
    encoded.functions.extend(placed.functions.values())
    # A model that calls a function must import its domain, once.
    if placed.functions and all(
        entry.domain != DOMAIN for entry in encoded.opset_import
    ):
        encoded.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    # Local functions came with IR version 8, sparse initializers with 5. A newer version
    # than needed would lock older runtimes out for nothing.
    if placed.functions or placed.sparse:
        encoded.ir_version = max(encoded.ir_version, 8 if placed.functions else 5)
    rebuilt = [
        (t.name, choice)
        for t, choice in pairs
        if choice.parts is not None and choice.parts.nodes
    ]
    # Only weights that nodes rebuild are listed: a sparse initializer tells of itself
    # what it is.
    how = {name: f"{choice.encoding} {choice.values}" for name, choice in rebuilt}
    put_metadata(
        encoded, get_metadata(dense) | ({WEIGHTS: json.dumps(how)} if how else {})
    )
    return encoded


def shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model without initializers and nodes of the main graph: weights may be too large to copy."""
    copied = onnx.ModelProto()
    copy_but(model, copied, {"graph"})
    copy_but(model.graph, copied.graph, {"initializer", "sparse_initializer", "node"})
    return copied


def _forget_names(nodes: Iterable[onnx.NodeProto], taken: Collection[str]) -> None:
    """Leave calls of functions, which are named like their weights, without a name that another node has."""
    # Nodes may have the names of values, but of two nodes with one name onnxruntime loads no file with functions.
    for node in nodes:
        if node.name in taken:
            node.ClearField("name")


def _forget_types(graph: onnx.GraphProto, names: set[str]) -> None:
    """Drop what the graph says of the types of these initializers, which are sparse now."""
    # Exporters note every weight as a dense tensor; beside a sparse one shape inference takes
    # that for a contradiction and raises.
    kept = [item for item in graph.value_info if item.name not in names]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _prefix(graph: onnx.GraphProto) -> str:
    """What the names of our own values start with, and no other."""
    # Short, since it stands before every name in the file. Names of inner graphs count
    # too: a value there would hide ours.
    prefix, taken = "s.", set(names_in(graph))
    while any(name.startswith(prefix) for name in taken):
        prefix = "s" + prefix
    return prefix


def _label(choice: Choice) -> str:
    """A name for the function that rebuilds weights stored like this."""
    return f"{choice.encoding}_{choice.values}".replace("-", "_")


def stored_bytes(encoded: onnx.ModelProto, reader: TensorReader) -> dict[str, int]:
    """Bytes of every tensor in the file; of rebuilt weights all that no other needs."""
    graph = encoded.graph
    plain = {tensor.name: reader.size(tensor) for tensor in graph.initializer}
    sparse = {
        tensor.values.name: tensor.ByteSize() for tensor in graph.sparse_initializer
    }
    return plain | sparse | rebuilding(graph, stored_weights(encoded), reader).bytes
