"""What a file is made of, as far as other tools care: words that verdicts go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from sparsify_fx.onnx_export.files.metadata import stored_weights
from sparsify_fx.onnx_export.files.reading import told_of
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.inspection.inspect_onnx import onnx_rows
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.storage.codecs.rebuilding import rebuilding
from sparsify_fx.onnx_export.storage.packable import PACKED_TYPES, SMALL, dtype_name
from sparsify_fx.onnx_tools.constants import constants
from sparsify_fx.onnx_tools.weights import all_nodes

TRAITS = {
    "coo": "ONNX's sparse initializers",
    "gap": "the steps from value to value, added up by standard operators",
    "bitmask": "one bit an entry, looked up by standard operators",
    "fp32-packed": "float32 values in fewer bytes, the same bits",
    "fp16": "values rounded to float16",
    "int8": "values rounded to 8 bits, with a scale for each channel",
    "functions": "a local function for each packed weight",
    "MaxUnpool": "packed weights put in place by MaxUnpool (target onnxruntime, and files of earlier versions)",
    "Scan": "large weights rebuilt in rounds, by a Scan (target onnxruntime, and files of earlier versions)",
    "float32 arithmetic": "values computed in float32, which converters to float16 change (files of earlier versions)",
    "QDQ": "8-bit weights in front of DequantizeLinear",
    "QOperator": "8-bit weights in operators of integers",
    SPARSE: "operators of this package's library, which skip zeros",
    "external data": "weights in files beside the model",
    "convolutions": "weights of convolutions",
    "batch-norm": "batch norms behind convolutions, which optimizers fold into the weights",
    "dense": "nothing but plain weights",
}
"""Every word, and what it says of a file; the order is that of reports."""

PACKED = frozenset({"coo", "gap", "bitmask", "int8", "fp16", "fp32-packed", SPARSE})
"""With one of these a file is more than plain weights."""

_INTEGER_OPERATORS = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd",
}  # fmt: skip
_MOSTLY = 0.5  # share of zeros from which packing makes a tensor smaller


@dataclass(frozen=True)
class Held:
    """What a file holds: its traits, in the order of `TRAITS`, with how many tensors, and what else one should know."""

    traits: dict[str, int]
    notes: tuple[str, ...]


def traits_of(file: Path) -> frozenset[str]:
    """The traits of an ONNX file; ExportError when it cannot be read."""
    return frozenset(held_by(file).traits)


def held_by(file: Path) -> Held:
    """Look at every tensor and node of an ONNX file; ExportError when it is missing or damaged."""
    rows, told = onnx_rows(file)
    model, reader = load_onnx(file), TensorReader(file.parent)
    with told_of(file):
        found = dict.fromkeys(TRAITS, 0)
        for word in _of_rows(rows):
            found[word] += 1
        for word in _of_graph(model, rows, reader):
            found[word] += 1
        if not any(found[word] for word in PACKED):
            found["dense"] = sum(row.prunable for row in rows) or 1
        notes = (*told, *_about_zeros(rows), *_about_signs(model, reader))
    return Held({word: count for word, count in found.items() if count}, notes)


def _of_rows(rows: Iterable[LayerRow]) -> Iterator[str]:
    """Encodings and kinds of values, one word for each tensor that has it."""
    for row in rows:
        yield from (word for word in (row.encoding, row.values) if word in PACKED)


def _of_graph(
    model: onnx.ModelProto, rows: Sequence[LayerRow], reader: TensorReader
) -> Iterator[str]:
    """What nodes and places of tensors say."""
    # 1. How packed weights are rebuilt.
    stored, graph = stored_weights(model), model.graph
    functions = {each.name: each for each in model.functions}
    nodes: list[onnx.NodeProto] = []
    for place in rebuilding(graph, stored, reader).nodes:
        node = graph.node[place]
        called = functions.get(node.op_type) if node.domain else None
        if called is not None:
            yield "functions"
        nodes += [node] if called is None else called.node
    yield from (node.op_type for node in nodes if node.op_type in ("MaxUnpool", "Scan"))
    computed = any(row.values in ("int8", "fp32-packed") for row in rows)
    if computed and onnx.TensorProto.DOUBLE not in _casts(nodes):
        yield "float32 arithmetic"

    # 2. Quantized weights, by the operators that read them.
    narrow = {row.name for row in rows if row.prunable and row.dtype in _EIGHT_BITS}
    everywhere = list(all_nodes(graph.node))
    for node in everywhere:
        if node.op_type == "DequantizeLinear" and node.input[0] in narrow:
            yield "QDQ"
        elif node.op_type in _INTEGER_OPERATORS:
            yield "QOperator"

    # 3. Weights beside the file, and what optimizers will fold into them.
    for each in constants(model):
        tensor = each.tensor
        if getattr(tensor, "data_location", 0) == onnx.TensorProto.EXTERNAL:
            yield "external data"
    convolved = {node.output[0] for node in everywhere if node.op_type == "Conv"}
    yield from ("convolutions" for _ in convolved)
    for node in everywhere:
        if node.op_type == "BatchNormalization" and node.input[0] in convolved:
            yield "batch-norm"


def _casts(nodes: Iterable[onnx.NodeProto]) -> set[int]:
    """The types that these nodes cast to."""
    found: set[int] = set()
    for node in nodes:
        if node.op_type == "Cast":
            found.update(attribute.i for attribute in node.attribute)
    return found


_EIGHT_BITS = ("int8", "uint8")


def _about_zeros(rows: Iterable[LayerRow]) -> Iterator[str]:
    """What `pack` would make smaller."""
    kinds = {dtype_name(kind) for kind in PACKED_TYPES}
    left = [
        row
        for row in rows
        if row.encoding == "dense" and row.values == "fp32" and row.prunable
        and row.dtype in kinds and row.bytes_dense > SMALL and row.sparsity > _MOSTLY
    ]  # fmt: skip
    if left:
        zeros, size = sum(row.zeros for row in left), sum(row.size for row in left)
        saved = sum(row.bytes_stored - row.bytes_bound for row in left)
        yield (
            f"dense weights that are mostly zeros: {len(left)} ({zeros / size:.1%} of their entries); "
            f"`sparsify-fx pack` saves up to {saved:,.0f} bytes"
        )


def _about_signs(model: onnx.ModelProto, reader: TensorReader) -> Iterator[str]:
    """How many zeros of plain tensors are -0.0, which packing stores like other values unless it may drop the sign."""
    count = 0
    for each in constants(model):
        if not isinstance(each.tensor, onnx.TensorProto) or len(each.tensor.dims) < 2:
            continue
        if each.tensor.data_type in (1, 10, 11):  # float32, float16, float64
            array = reader.array(each.tensor)
            count += int(np.count_nonzero(np.signbit(array) & (array == 0)))
    if count:
        yield (
            f"{count:,} zeros are -0.0: `pack` stores them as zeros where no output changes by that, with "
            "--normalize-zeros always"
        )
