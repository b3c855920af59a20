"""`unpack_onnx`: a packed ONNX file as it was before."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from sparsify_fx.onnx_export.files.metadata import stored_weights
from sparsify_fx.onnx_export.files.reading import read_plain, told_of
from sparsify_fx.onnx_export.files.targets import check_source, check_target
from sparsify_fx.onnx_export.files.tensors import load_onnx
from sparsify_fx.onnx_export.files.writing import model_bytes, write_model
from sparsify_fx.onnx_export.finishing import Checked, check_file, invalid, make_report
from sparsify_fx.onnx_export.inspection.inspect_onnx import rows_beside
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.report.macs import layer_macs
from sparsify_fx.onnx_export.storage.encodings import as_it_is
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.packable import hoisted
from sparsify_fx.onnx_export.storage.putting_back import put_back
from sparsify_fx.runtime.restore import sparse_weights

_LOG = logging.getLogger(__name__)


def unpack_onnx(
    source: str | os.PathLike[str], path: str | os.PathLike[str]
) -> ExportReport:
    """Write a packed ONNX file with plain initializers again, to the bits that the packed one holds.

    Rebuilds what `export` and `pack_onnx` stored in any encoding, and sparse initializers of other writers. The model
    is that of the original file, with its producer, IR version and metadata, and every constant where it was. Only the
    order of initializers may differ and, with sparse operators, the names of values between layer, addition and
    activation and the order of nodes. Raises ExportError as `pack_onnx`.
    """
    file, place = check_source(source), check_target(path)
    _LOG.info("reading %s", file)
    packed = load_onnx(file)
    is_packed = bool(
        stored_weights(packed)
        or sparse_weights(packed)
        or packed.graph.sparse_initializer
    )
    model, reader = read_plain(file)
    with told_of(file):
        valid, wanted, size = (
            invalid(file) is None,
            Wanted("dense"),
            model_bytes(model, reader),
        )
        # Constants move out and back, so that rows and digests are made by the code that
        # makes them when packing.
        ir_version, moved = model.ir_version, hoisted(model)
        encoded = as_it_is(model, reader)
        macs, beside = layer_macs(model, encoded.rows, {}), rows_beside(model, reader)
        put_back(model, moved)
        model.ir_version = ir_version
    rows = tuple(replace(row, macs=macs.get(row.name)) for row in encoded.rows)
    kept = {tensor.name for tensor in model.graph.initializer}
    # Only initializers of the main graph are decoded by name; constants that are back in
    # their scopes are copied, not decoded.
    digests = {name: mark for name, mark in encoded.digests.items() if name in kept}
    encoded = replace(encoded, rows=(*rows, *beside), digests=digests)

    def check(written: Path) -> Checked:
        _LOG.info("checking every bit of the file that becomes %s", place)
        # Before IR version 4 onnx's checker wants all initializers to be inputs, which those of branches never are.
        check_file(written, encoded, strictly=valid and ir_version >= 4)
        return Checked((None, None))

    notes = [] if is_packed else [_NOTHING]
    checked = write_model(place, encoded.model, reader, check)
    report = make_report(
        path,
        encoded,
        wanted,
        checked,
        bytes_dense=size,
        reference="the packed file",
        notes=notes,
    )
    return replace(report, unpacked=True)


_NOTHING = (
    "nothing in this file is packed, or another program has removed the metadata that tell what is: it was written as "
    "it was"
)
