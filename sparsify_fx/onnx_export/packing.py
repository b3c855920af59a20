"""How a file is packed: read, encoded, written and compared, and once more where the signs of zeros matter."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.comparing import Trial, trial_of
from sparsify_fx.onnx_export.checks.in_floats import (
    compare_in_floats,
    holds_quantized,
)
from sparsify_fx.onnx_export.checks.measure import Speed
from sparsify_fx.onnx_export.checks.measure import measure as measure_files
from sparsify_fx.onnx_export.files.reading import read_plain, told_of
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.files.writing import model_bytes, write_model
from sparsify_fx.onnx_export.finishing import (
    Checked,
    check_file,
    invalid,
    make_report,
    packed_form,
)
from sparsify_fx.onnx_export.inspection.inspect_onnx import rows_beside
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.report.notes import (
    WHERE_EQUAL,
    about_inputs,
    about_kept_zeros,
    about_signs,
)
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.sparse_ort import encode, library_for
from sparsify_fx.onnx_export.storage.codecs import VALUES
from sparsify_fx.onnx_export.storage.encodings import Encoded, encode_initializers
from sparsify_fx.onnx_export.storage.history import History, history_of
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.packable import hoisted
from sparsify_fx.onnx_export.storage.putting_back import put_back
from sparsify_fx.onnx_export.tracing.clean import (
    PRUNED,
    count_negative_zeros,
    normalize_zeros,
)
from sparsify_fx.onnx_export.unpack import unpack_onnx
from sparsify_fx.onnx_tools.signature import Asked
from sparsify_fx.runtime.restore import sparse_weights

_LOG = logging.getLogger(__name__)

_LIMIT = 1e-4  # the largest difference of outputs, as a fraction of the largest, when the weights have the same bits


@dataclass(frozen=True)
class _Source:
    """The file to pack: its plain model, with the constants that can be packed moved into the main graph.

    `valid`: whether onnx's checker takes it; `bytes`: of the plain model; `beside`: rows of weights that did not move.
    """

    model: onnx.ModelProto
    reader: TensorReader
    valid: bool
    history: History
    bytes: int
    moved: Moved
    beside: tuple[LayerRow, ...]


def _read(file: Path) -> _Source:
    model, reader = read_plain(file)
    with told_of(file):
        # Before constants move: all three are about the file as it came.
        valid, history, size = (
            invalid(file) is None,
            history_of(model),
            model_bytes(model, reader),
        )
        moved = hoisted(model)
        return _Source(
            model, reader, valid, history, size, moved, rows_beside(model, reader)
        )


@dataclass(frozen=True)
class Job:
    """One call of `pack_onnx`."""

    file: Path
    place: Path
    wanted: Wanted
    verify: bool
    measure: bool
    asked: Asked

    def run(self, drop: bool | str, notes: Sequence[str] = ()) -> ExportReport:
        """Pack; `drop`: whether -0.0 becomes 0.0. SignsMatterError where that changes outputs or gains nothing."""
        _LOG.info("reading %s", self.file)
        source = _read(self.file)
        with told_of(self.file):
            # 1. Signs of zeros go first, since a weight of -0.0 has no zeros that could
            # be left out. Then the file is run once, for the sizes by which layers are
            # chosen and for the outputs to compare with.
            negative = _drop_signs(source.model, source.reader, drop)
            trial = self._trial(source)
            encoded = self._encoded(source, trial)
            if negative and drop == WHERE_EQUAL and not _is_packed(encoded):
                raise SignsMatterError("nothing in this file becomes smaller")
            said = [*notes, *about_signs(negative, drop, told=bool(notes))]
            said += about_inputs(encoded.moved, source.history.ir_version)
            said += about_kept_zeros(encoded, source.reader)

        # 2. Equal bits must give outputs that are equal but for the order of sums;
        # without them the difference is for the user to judge.
        lossless = VALUES[self.wanted.values].lossless
        limit = _LIMIT if lossless and not (negative and drop is True) else math.inf
        signs = lossless and drop == WHERE_EQUAL and negative > 0

        def check(written: Path) -> Checked:
            _LOG.info("checking every bit of the file that becomes %s", self.place)
            check_file(written, encoded, strictly=source.valid)
            return self._checked(trial, written, encoded, limit, signs)

        # 3. Written and checked; SignsMatterError leaves from here, and `pack_onnx`
        # starts anew with every -0.0.
        checked = write_model(self.place, encoded.model, source.reader, check)
        encoded = replace(encoded, rows=(*encoded.rows, *source.beside))
        sparse = self.wanted.target == SPARSE
        said += [
            *trial.notes,
            *trial.about(chosen=sparse, compared=self.verify, measured=self.measure),
        ]
        return make_report(
            self.place, encoded, self.wanted, checked,
            bytes_dense=source.bytes, reference="the original file", notes=said,
        )  # fmt: skip

    def _encoded(self, source: _Source, trial: Trial) -> Encoded:
        """The packed form; the original one where packing would make the file larger."""
        model, reader = source.model, source.reader
        encoded = encode(
            model,
            self.wanted,
            trial.sizes,
            reader,
            trial.shapes,
            trial.origin,
            source.moved,
            trial.feed,
        )
        encoded = packed_form(
            encoded, model, self.wanted, source.history, trial.sizes, source.beside
        )
        # What is packed may be larger in all: metadata, tables and nodes are counted only
        # now.
        if not self._is_loss(model_bytes(encoded.model, reader) - source.bytes):
            return encoded
        # The rows still say what the weights have, and the digests what each must give,
        # since the file is checked by them.
        plain = encode_initializers(model, Wanted("dense"), reader, moved=encoded.moved)
        rows = (
            replace(row, encoding="dense", values="fp32", bytes_stored=row.bytes_dense)
            for row in encoded.rows
        )
        plain = replace(plain, rows=tuple(rows), digests=encoded.digests)
        return packed_form(plain, model, self.wanted, source.history, trial.sizes)

    def _checked(
        self, trial: Trial, written: Path, encoded: Encoded, limit: float, signs: bool
    ) -> Checked:
        """What running both files gives; `signs`: -0.0 were dropped, which may change no output.

        Raises SignsMatterError where it does, or where that cannot be seen.
        """
        library = library_for(encoded.model)
        if self.verify and holds_quantized(encoded.rows):
            compare_in_floats(trial, written, library)
            limit = math.inf
        try:
            checked = self._compared(trial, written, limit, library)
        # Whatever is wrong, the dropped signs may be why; with every -0.0 it is tried
        # once more.
        except ExportError as error:
            if not signs:
                raise
            raise SignsMatterError(
                "with 0.0 in its place the outputs differ"
            ) from error
        absolute, _ = checked.differences
        if signs and absolute is None:
            raise SignsMatterError(
                "with 0.0 in its place the outputs could not be compared"
            )
        # Sparse operators add in another order: what is below `limit` is equal for them.
        exactly = signs and library is None
        if (
            exactly
            and absolute
            and not self._equal_but_for_signs(trial, written, encoded.moved)
        ):
            raise SignsMatterError("with 0.0 in its place the outputs differ")
        return checked

    def _is_loss(self, more: int) -> bool:
        """Whether a file with `more` bytes is given up for the original: what it says of itself may be all it gains."""
        free = (
            self.wanted.encoding in ("auto", "dense")
            and VALUES[self.wanted.values].lossless
        )
        return more > 0 and free and self.wanted.target != SPARSE

    def _compared(
        self, trial: Trial, written: Path, limit: float, library: str | None
    ) -> Checked:
        """What running both files gives, as far as that was asked for."""
        if self.verify:
            _LOG.info("comparing the outputs of both files")
        differences = (
            trial.differences(written, limit, library) if self.verify else (None, None)
        )
        feed = trial.feed if self.measure else None
        return Checked(
            differences,
            None if feed is None else _speed(self.file, written, feed, library),
        )

    def _equal_but_for_signs(self, trial: Trial, written: Path, moved: Moved) -> bool:
        """Whether the signs of zeros are no reason for differences: constants that moved make others by themselves.

        onnxruntime computes with constants in another order than with inputs that have a default, or with tensors of
        branches. So the original, with these constants moved too, is what the written file has to equal.
        """
        if not moved.origins:
            return False
        model, reader = read_plain(self.file)
        # Only the constants that the written file has moved stay moved here.
        back = hoisted(model).without(moved.origins)
        put_back(model, back, still=moved)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "moved.onnx"
            return write_model(
                place, model, reader, lambda file: trial.agree(file, written)
            )

    def _trial(self, source: _Source) -> Trial:
        """What to run the file on, and what it gives."""
        run, shapes = self.verify or self.measure, self.wanted.target == SPARSE
        return trial_of(
            self.file, source.model, source.reader, self.asked, run=run, shapes=shapes
        )


def _is_packed(encoded: Encoded) -> bool:
    """Whether anything is stored otherwise than in the original."""
    return any((row.encoding, row.values) != ("dense", "fp32") for row in encoded.rows)


def _drop_signs(model: onnx.ModelProto, reader: TensorReader, drop: bool | str) -> int:
    """Make -0.0 zeros where that is wanted; returns how many there are."""
    least = PRUNED if drop == WHERE_EQUAL else 0.0
    # Only in weights that are pruned for sure: -0.0 may be meant elsewhere.
    negative = count_negative_zeros(model, reader, least)
    if negative and drop:
        normalize_zeros(model, reader, least)
    return negative


class SignsMatterError(Exception):
    """The signs of zeros cannot be left out without a word."""


def _speed(
    original: Path, written: Path, feed: Mapping[str, Any], library: str | None
) -> Speed:
    """The written file against the original or, if that has sparse operators, against its dense twin."""
    if not sparse_weights(load_onnx(original)):
        return measure_files(original, written, feed, library=library)
    with tempfile.TemporaryDirectory() as folder:
        unpack_onnx(original, f"{folder}/dense.onnx")
        return measure_files(
            Path(folder) / "dense.onnx", written, feed, library=library
        )
