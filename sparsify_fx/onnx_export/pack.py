"""`pack_onnx`: an existing ONNX file, stored sparsely."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.checks.comparing import Trial, trial_of
from sparsify_fx.onnx_export.checks.measure import Speed
from sparsify_fx.onnx_export.checks.measure import measure as measure_files
from sparsify_fx.onnx_export.files.reading import read_plain, told_of
from sparsify_fx.onnx_export.files.targets import check_source, check_target
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.files.writing import model_bytes, write_model
from sparsify_fx.onnx_export.finishing import Checked, check_file, invalid, make_report, packed_form
from sparsify_fx.onnx_export.inspection.inspect_onnx import rows_beside
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.report.notes import WHERE_EQUAL, about_inputs, about_kept_zeros, about_signs
from sparsify_fx.onnx_export.report.rows import SPARSE
from sparsify_fx.onnx_export.sparse_ort import TARGETS, check_wanted, encode, library_for
from sparsify_fx.onnx_export.storage.codecs import VALUES
from sparsify_fx.onnx_export.storage.encodings import ENCODING_NAMES, VALUE_NAMES, Wanted, encode_initializers, hoisted
from sparsify_fx.onnx_export.storage.history import history_of
from sparsify_fx.onnx_export.storage.hoisting import Moved, put_back
from sparsify_fx.onnx_export.tracing.clean import PRUNED, count_negative_zeros, normalise_zeros
from sparsify_fx.onnx_export.unpack import unpack_onnx
from sparsify_fx.onnx_tools.signature import Asked
from sparsify_fx.runtime.restore import sparse_weights

_LOG = logging.getLogger(__name__)

_LIMIT = 1e-4  # the largest difference of outputs, as a fraction of the largest, when the weights have the same bits


def pack_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    encoding: str = "auto",
    values: str = "fp32",
    target: str = "onnx",
    functions: bool = False,
    normalize_zeros: bool | None = None,
    verify: bool = True,
    measure: bool = False,
    autotune: bool = False,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    axes: Mapping[str, int] | None = None,
) -> ExportReport:
    """Store the zeros of an ONNX file's weights sparsely; nothing else in the file changes.

    Weights are found wherever they lie: initializers, also those that are inputs as well, Constant nodes, branches,
    bodies of loops and functions; floats, and 8-bit integers, whose zeros are their zero points. A file in which
    nothing is to be gained is written as it was. `unpack_onnx` gives the original back.

    Works on any ONNX file, packed ones too, with external data and beyond 2 GB: one tensor at a time is in memory.
    Every tensor is decoded from the written file, with its own nodes, and compared bit for bit before the file appears.

    Args:
        source: the file to read.
        path: the file to write; a result over 2 GB gets external data in `path`.data.
        encoding, values, functions, target, autotune: as in `export`. With the target `sparse-ort` layers become sparse
            operators, and additions and activations behind them a part of these; `unpack_onnx` takes them apart again.
        normalize_zeros: whether -0.0 is stored as 0.0 in tensors of two or more axes. Pruned weights are often -0.0,
            which costs as much as any other value, and only the sign of a zero can depend on it. None: yes in weights
            of which a quarter is zeros, if the outputs that are compared stay the same; the notes say so.
        verify: also run both files in onnxruntime and compare. Needs memory for both models.
        measure: also measure load time, memory and latency of both files (`report.speed`); as in `export`.
        inputs: what to run them on, by name; the others are made up to fit the signature. Layers are chosen for these
            sizes. Strings, lists of arrays and dicts are for inputs of such types.
        input_shapes: shapes of made-up inputs, by name.
        axes: lengths of open axes that have a name. Otherwise 1 for batches, 224 for images and 128 for sequences, or
            the next of a fixed list that the model takes; `notes` say which.

    Raises:
        UnknownNameError: unknown encoding, values or target, or an input or axis that the model has not.
        InputError: inputs, shapes or lengths that contradict the file, or inputs that it does not run on.
        RuntimeLibraryError: target `sparse-ort`, and the package was installed without its library.
        ExportError: a file that is damaged or cannot be written, an opset without the operators, a result that differs.
            `path` is then as before.

    >>> import tempfile, numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> weight = numpy_helper.from_array(np.eye(100, dtype=np.float32), "w")
    >>> ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 100]) for name in "xy"]
    >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
    >>> model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]), ir_version=9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(model, f"{folder}/dense.onnx")
    ...     report = pack_onnx(f"{folder}/dense.onnx", f"{folder}/packed.onnx")
    >>> report.sparsity, report.ratio > 40
    (0.99, True)
    """
    words = {"encoding": (encoding, ENCODING_NAMES), "values": (values, VALUE_NAMES), "target": (target, TARGETS)}
    for kind, (given, known) in words.items():
        if given not in known:
            raise unknown(kind, str(given), known)
    wanted = Wanted(encoding, values, functions, target, autotune, measure)
    check_wanted(wanted)
    file, place = check_source(source), check_target(path)
    asked = Asked(inputs or {}, input_shapes or {}, axes or {})
    job = _Job(file, place, wanted, verify, measure, asked)
    drop = normalize_zeros if normalize_zeros is not None else (WHERE_EQUAL if verify else False)
    try:
        report = job.run(drop)
    except _SignsMatterError as reason:
        _LOG.info("once more with every -0.0: %s", reason)
        report = job.run(False, [f"-0.0 was kept: {reason}"])
    return replace(report, path=os.fspath(path))


@dataclass(frozen=True)
class _Job:
    """One call of `pack_onnx`."""

    file: Path
    place: Path
    wanted: Wanted
    verify: bool
    measure: bool
    asked: Asked

    def run(self, drop: bool | str, notes: Sequence[str] = ()) -> ExportReport:
        """Pack; `drop`: whether -0.0 becomes 0.0. Raises _SignsMatterError where that was to change no output."""
        _LOG.info("reading %s", self.file)
        model, reader = read_plain(self.file)
        with told_of(self.file):
            valid, history, dense_bytes = invalid(self.file) is None, history_of(model), model_bytes(model, reader)
            moved = hoisted(model)
            beside = rows_beside(model, reader)
            negative = _drop_signs(model, reader, drop)
            trial = self._trial(model, reader)
            encoded = encode(model, self.wanted, trial.sizes, reader, trial.shapes, trial.origin, moved, trial.feed)
            encoded = packed_form(encoded, model, self.wanted, history, trial.sizes, beside)
            if self._is_loss(model_bytes(encoded.model, reader) - dense_bytes):
                plain = encode_initializers(model, Wanted("dense"), reader, moved=encoded.moved)
                rows = [
                    replace(row, encoding="dense", values="fp32", bytes_stored=row.bytes_dense) for row in encoded.rows
                ]
                plain = replace(plain, rows=tuple(rows), digests=encoded.digests)
                encoded = packed_form(plain, model, self.wanted, history, trial.sizes)
            said = [*notes, *about_signs(negative, drop, told=bool(notes))]
            said += [*about_inputs(encoded.moved, history.ir_version), *about_kept_zeros(encoded, reader)]
        library = library_for(encoded.model)
        lossless = VALUES[self.wanted.values].lossless
        equal = lossless and drop == WHERE_EQUAL and negative > 0
        sums_anew = library is not None  # sparse operators add in another order: below `limit` is equal for them
        limit = _LIMIT if lossless and not (negative and drop is True) else math.inf

        def check(written: Path) -> Checked:
            _LOG.info("checking every bit of the file that becomes %s", self.place)
            check_file(written, encoded, strictly=valid)
            try:
                checked = self._compared(trial, written, limit, library)
            except ExportError as error:
                if not equal:
                    raise
                raise _SignsMatterError("with 0.0 in its place the outputs differ") from error
            absolute, _ = checked.differences
            if equal and absolute is None:
                raise _SignsMatterError("with 0.0 in its place the outputs could not be compared")
            if equal and absolute and not sums_anew and not self._equal_but_for_signs(trial, written, encoded.moved):
                raise _SignsMatterError("with 0.0 in its place the outputs differ")
            return checked

        checked = write_model(self.place, encoded.model, reader, check)
        encoded = replace(encoded, rows=(*encoded.rows, *beside))
        sparse = self.wanted.target == SPARSE
        said += [*trial.notes, *trial.about(chosen=sparse, compared=self.verify, measured=self.measure)]
        return make_report(
            self.place, encoded, self.wanted, checked,
            bytes_dense=dense_bytes, reference="the original file", notes=said,
        )  # fmt: skip

    def _is_loss(self, more: int) -> bool:
        """Whether a file with `more` bytes is given up for the original: what it says of itself may be all it gains."""
        free = self.wanted.encoding in ("auto", "dense") and VALUES[self.wanted.values].lossless
        return more > 0 and free and self.wanted.target != SPARSE

    def _compared(self, trial: Trial, written: Path, limit: float, library: str | None) -> Checked:
        """What running both files gives, as far as that was asked for."""
        if self.verify:
            _LOG.info("comparing the outputs of both files")
        differences = trial.differences(written, limit, library) if self.verify else (None, None)
        feed = trial.feed if self.measure else None
        return Checked(differences, None if feed is None else _speed(self.file, written, feed, library))

    def _equal_but_for_signs(self, trial: Trial, written: Path, moved: Moved) -> bool:
        """Whether the signs of zeros are no reason for differences: constants that moved make others by themselves.

        onnxruntime computes with constants in another order than with inputs that have a default, or with tensors of
        branches. So the original, with these constants moved too, is what the written file has to equal.
        """
        if not moved.origins:
            return False
        model, reader = read_plain(self.file)
        back = hoisted(model).without(moved.origins)
        put_back(model, back, still=moved)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "moved.onnx"
            return write_model(place, model, reader, lambda file: trial.agree(file, written))

    def _trial(self, model: onnx.ModelProto, reader: TensorReader) -> Trial:
        """What to run the file on, and what it gives."""
        run, shapes = self.verify or self.measure, self.wanted.target == SPARSE
        return trial_of(self.file, model, reader, self.asked, run=run, shapes=shapes)


def _drop_signs(model: onnx.ModelProto, reader: TensorReader, drop: bool | str) -> int:
    """Make -0.0 zeros where that is wanted; returns how many there are."""
    least = PRUNED if drop == WHERE_EQUAL else 0.0
    negative = count_negative_zeros(model, reader, least)
    if negative and drop:
        normalise_zeros(model, reader, least)
    return negative


class _SignsMatterError(Exception):
    """The signs of zeros cannot be left out without a word."""


def _speed(original: Path, written: Path, feed: Mapping[str, Any], library: str | None) -> Speed:
    """The written file against the original or, if that has sparse operators, against its dense twin."""
    if not sparse_weights(load_onnx(original)):
        return measure_files(original, written, feed, library=library)
    with tempfile.TemporaryDirectory() as folder:
        unpack_onnx(original, f"{folder}/dense.onnx")
        return measure_files(Path(folder) / "dense.onnx", written, feed, library=library)
