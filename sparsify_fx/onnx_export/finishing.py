"""What `export` and `pack_onnx` do alike once a model is encoded: describe it, check it, measure it, report on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.measure import Speed, measure
from sparsify_fx.onnx_export.files.metadata import (
    STORAGE_KEYS,
    get_metadata,
    put_metadata,
)
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.files.writing import serialized
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.report.macs import layer_macs
from sparsify_fx.onnx_export.report.rows import LayerRow, count_weights
from sparsify_fx.onnx_export.storage.encodings import Encoded, check_bits
from sparsify_fx.onnx_export.storage.history import History, remember
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.putting_back import put_back
from sparsify_fx.onnx_export.tracing.clean import set_producer
from sparsify_fx.onnx_export.tracing.trace import opset_of
from sparsify_fx.onnx_tools import outside
from sparsify_fx.runtime.restore import sparse_weights, to_dense


@dataclass(frozen=True)
class Checked:
    """What checking a written file gave: the largest absolute and relative difference, and speed if it was measured."""

    differences: tuple[float | None, float | None]
    speed: Speed | None = None


def describe(
    encoded: Encoded,
    dense: onnx.ModelProto,
    wanted: Wanted,
    shapes: Mapping[str, tuple[int, ...]],
    about: Mapping[str, str],
) -> Encoded:
    """Name producer, sparsity, encoding, values and `about` in the file, and put MACs into the rows.

    `dense` gets the same entries in place, without encoding and values, so that sizes can be compared.
    """
    macs = layer_macs(dense, encoded.rows, shapes)
    rows = tuple(replace(row, macs=macs.get(row.name)) for row in encoded.rows)
    common = {**about, "sparsity": f"{count_weights(rows)[2]:.6f}"}
    # A file in which nothing is packed says nothing of how.
    stored = {}
    if any((row.encoding, row.values) != ("dense", "fp32") for row in rows):
        stored = {"encoding": wanted.encoding, "values": _values_of(rows, wanted)}
    for model, more in ((encoded.model, stored), (dense, {})):
        set_producer(model)
        put_metadata(model, get_metadata(model) | common | more)
    return replace(encoded, rows=rows)


def packed_form(
    encoded: Encoded,
    dense: onnx.ModelProto,
    wanted: Wanted,
    history: History,
    shapes: Mapping[str, tuple[int, ...]],
    beside: Sequence[LayerRow] = (),
) -> Encoded:
    """The packed file of a model with this history: what `unpack` needs is in it, and MACs are in the rows.

    Where nothing is stored otherwise than before, the model is the original one, bit for bit. `beside`: the rows of
    weights that are elsewhere, which count as well.
    """
    macs = layer_macs(dense, encoded.rows, shapes)
    rows = tuple(replace(row, macs=macs.get(row.name)) for row in encoded.rows)
    model = encoded.model
    # Nothing was gained, so the file is to be the original to the bit: no history, no
    # entries of ours, old IR version.
    if all((row.encoding, row.values) == ("dense", "fp32") for row in rows):
        put_back(model, encoded.moved)
        model.ir_version = history.ir_version
        put_metadata(
            model,
            {
                key: text
                for key, text in get_metadata(model).items()
                if key not in STORAGE_KEYS
            },
        )
        return replace(encoded, rows=rows, moved=Moved())
    sparsity = count_weights((*rows, *beside))[2]
    told = {
        "sparsity": f"{sparsity:.6f}",
        "encoding": wanted.encoding,
        "values": _values_of(rows, wanted),
    }
    set_producer(model)
    put_metadata(model, get_metadata(model) | told)
    remember(model, replace(history, moved=encoded.moved))
    return replace(encoded, rows=rows)


def _values_of(rows: Sequence[LayerRow], wanted: Wanted) -> str:
    """The kind of values that the file says it has: the wanted one, if any weight is stored so."""
    return wanted.values if any(row.values != "fp32" for row in rows) else "fp32"


def check_file(path: Path, encoded: Encoded, *, strictly: bool = True) -> None:
    """The written file is valid ONNX, and every tensor in it decodes to the bits it must have.

    `strictly`: for onnx's own checker too, which not every working file of other writers passes.
    """
    if strictly and (reason := invalid(path)) is not None:
        raise ExportError(f"the written model is not valid ONNX: {reason}")
    written, reader = load_onnx(path), TensorReader(path.parent)
    # Sparse operators are no standard ones, so their weights are read off the model that
    # they become.
    check_bits(
        encoded.digests,
        to_dense(written, reader.array) if sparse_weights(written) else written,
        reader,
    )


def invalid(path: Path) -> str | None:
    """Why onnx's checker rejects a file, or None."""
    try:
        # By path, for files that are too large in memory. Not full_check: its inference knows no sparse initializers.
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, DecodeError) as error:
        return str(error)
    return None


def measure_file(
    dense: onnx.ModelProto,
    packed: Path,
    feed: Mapping[str, NDArray[Any]],
    library: str | None = None,
) -> Speed:
    """Measure a file, which may need a library, against `dense`, which is written to a temporary folder for that."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(write_dense(dense, Path(folder)), packed, feed, library=library)


def write_dense(dense: onnx.ModelProto, folder: Path) -> Path:
    """Write a model to a file in a folder, with external data where it is too large without."""
    file = folder / "dense.onnx"
    if outside.count_bytes(dense) < outside.MAX_BYTES:
        file.write_bytes(serialized(dense))
    else:
        outside.write_beside(dense, file)
    return file


def make_report(
    path: str | os.PathLike[str],
    encoded: Encoded,
    wanted: Wanted,
    checked: Checked,
    *,
    bytes_dense: int,
    reference: str,
    notes: Sequence[str] = (),
) -> ExportReport:
    """The report on a file that has been written; its size is that of the file and its external data."""
    weights, nonzeros, sparsity = count_weights(encoded.rows)
    # An older file of this name may lie there, so it counts only if the model refers to
    # it.
    data = Path(f"{os.fspath(path)}.data")
    outside = any(tensor.external_data for tensor in encoded.model.graph.initializer)
    size = Path(path).stat().st_size + (data.stat().st_size if outside else 0)
    return ExportReport(
        path=os.fspath(path),
        opset=opset_of(encoded.model),
        sparsity=sparsity,
        nonzeros=nonzeros,
        weights=weights,
        bytes_dense=bytes_dense,
        bytes_file=size,
        ratio=bytes_dense / size,
        max_abs_difference=checked.differences[0],
        max_rel_difference=checked.differences[1],
        layers=encoded.rows,
        encoding=wanted.encoding,
        values=wanted.values,
        target=wanted.target,
        reference=reference,
        speed=checked.speed,
        notes=(*encoded.notes, *notes),
    )
