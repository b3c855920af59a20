"""Plain initializers again in place of everything that rebuilds weights."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from sparsify_fx.onnx_export.codecs.decoding import Decoder, rebuilding
from sparsify_fx.onnx_export.codecs.placing import DOMAIN
from sparsify_fx.onnx_export.encodings import shell
from sparsify_fx.onnx_export.metadata import STORAGE_KEYS, get_metadata, put_metadata, stored_weights
from sparsify_fx.onnx_export.tensors import TensorReader


def unpacked(model: onnx.ModelProto, reader: TensorReader) -> onnx.ModelProto:
    """A copy of the model with plain initializers, decoded by the model's own nodes; other tensors are not read.

    Raises ExportError for a weight that cannot be rebuilt.
    """
    graph = model.graph
    found, decoder = rebuilding(graph, stored_weights(model), reader), Decoder(model, reader)
    dense = shell(model)
    dense.graph.node.extend(node for place, node in enumerate(graph.node) if place not in found.nodes)
    dense.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in found.tensors)
    left = [sparse.values.name for sparse in graph.sparse_initializer if sparse.values.name not in found.tensors]
    for name in (*found.bytes, *left):
        dense.graph.initializer.append(numpy_helper.from_array(decoder.array(name), name))
    if found.bytes:
        _forget_functions(dense)
    put_metadata(dense, {key: value for key, value in get_metadata(model).items() if key not in STORAGE_KEYS})
    return dense


def constant_initializers(model: onnx.ModelProto) -> None:
    """Take initializers out of the inputs of a model of IR version 3, in place, and call it version 4.

    That version wants every initializer to be an input too; runtimes treat them as constants all the same.
    """
    if model.ir_version >= 4:
        return
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [item for item in model.graph.input if item.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = 4


def _forget_functions(model: onnx.ModelProto) -> None:
    """Drop our local functions, which nothing calls any more."""
    others = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(others)
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(imports)
