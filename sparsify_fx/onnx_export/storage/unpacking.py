"""Plain initializers again in place of everything that rebuilds weights."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from sparsify_fx.onnx_export.files.metadata import (
    WEIGHTS,
    get_metadata,
    put_metadata,
    stored_weights,
)
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.assembling import shell
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.codecs.placing import DOMAIN
from sparsify_fx.onnx_export.storage.codecs.rebuilding import rebuilding


def unpacked(model: onnx.ModelProto, reader: TensorReader) -> onnx.ModelProto:
    """A copy of the model with plain initializers, decoded by the model's own nodes; other tensors are not read.

    Raises ExportError for a weight that cannot be rebuilt.
    """
    graph = model.graph
    found, decoder = (
        rebuilding(graph, stored_weights(model), reader),
        Decoder(model, reader),
    )
    dense = shell(model)
    dense.graph.node.extend(
        node for place, node in enumerate(graph.node) if place not in found.nodes
    )
    dense.graph.initializer.extend(
        tensor for tensor in graph.initializer if tensor.name not in found.tensors
    )
    left = [
        sparse.values.name
        for sparse in graph.sparse_initializer
        if sparse.values.name not in found.tensors
    ]
    # The decoder rebuilds a few weights at a time, so that only the result is in memory
    # as a whole.
    for name, array in decoder.arrays((*found.bytes, *left)):
        dense.graph.initializer.append(numpy_helper.from_array(array, name))
    if found.bytes:
        _forget_functions(dense)
    put_metadata(
        dense,
        {key: value for key, value in get_metadata(model).items() if key != WEIGHTS},
    )
    return dense


def _forget_functions(model: onnx.ModelProto) -> None:
    """Drop our local functions, which nothing calls any more."""
    others = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(others)
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
