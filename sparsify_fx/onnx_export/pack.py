"""`pack_onnx` and `unpack_onnx`: an existing ONNX file, stored sparsely, and dense again."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.clean import count_negative_zeros, normalise_zeros
from sparsify_fx.onnx_export.codecs import VALUES
from sparsify_fx.onnx_export.comparing import trial_of
from sparsify_fx.onnx_export.encodings import ENCODING_NAMES, VALUE_NAMES, Wanted, as_it_is
from sparsify_fx.onnx_export.files import check_target
from sparsify_fx.onnx_export.finishing import Checked, check_file, describe, invalid, make_report
from sparsify_fx.onnx_export.measure import Speed
from sparsify_fx.onnx_export.measure import measure as measure_files
from sparsify_fx.onnx_export.report import ExportReport
from sparsify_fx.onnx_export.rows import SPARSE
from sparsify_fx.onnx_export.sparse_ort import TARGETS, check_wanted, encode, library_for
from sparsify_fx.onnx_export.tensors import TensorReader, load_onnx, stored_tensors
from sparsify_fx.onnx_export.unpacking import constant_initializers, unpacked
from sparsify_fx.onnx_export.writing import model_bytes, write_model
from sparsify_fx.passes.onnx_graph.signature import Asked
from sparsify_fx.runtime.restore import sparse_weights, to_dense

_LIMIT = 1e-4  # the largest difference of outputs, as a fraction of the largest, when the weights have the same bits


def pack_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    encoding: str = "auto",
    values: str = "fp32",
    target: str = "onnx",
    functions: bool = False,
    normalize_zeros: bool = False,
    verify: bool = True,
    measure: bool = False,
    autotune: bool = False,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    axes: Mapping[str, int] | None = None,
) -> ExportReport:
    """Store the zeros of an ONNX file's weights sparsely; nothing else in the file changes.

    Works on any ONNX file, packed ones too, with external data and beyond 2 GB: one tensor at a time is in memory.
    Every tensor is decoded from the written file, with its own nodes, and compared bit for bit before the file appears.

    Args:
        source: the file to read.
        path: the file to write; a result over 2 GB gets external data in `path`.data.
        encoding, values, functions, target, autotune: as in `export`. With the target `sparse-ort` layers become sparse
            operators, and additions and activations behind them a part of these; `unpack_onnx` takes them apart again.
        normalize_zeros: store -0.0 as 0.0 in tensors of two or more axes. Pruned weights are often -0.0, which costs as
            much as any other value, and only the sign of a zero output can depend on it.
        verify: also run both files in onnxruntime and compare. Needs memory for both models.
        measure: also measure load time, memory and latency of both files (`report.speed`).
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
    wanted = Wanted(encoding, values, functions, target, autotune)
    check_wanted(wanted)
    file, place = Path(source), check_target(path)
    model, reader = _read(file)
    valid = invalid(file) is None
    negative = count_negative_zeros(model, reader)
    if normalize_zeros:
        normalise_zeros(model, reader)
    asked = Asked(inputs or {}, input_shapes or {}, axes or {})
    trial = trial_of(file, model, reader, asked, run=verify or measure, shapes=target == SPARSE)
    encoded = describe(encode(model, wanted, trial.sizes, reader, trial.shapes, trial.origin), model, wanted, {}, {})
    library = library_for(encoded.model)
    exact = VALUES[values].lossless and not (normalize_zeros and negative)
    notes = [_about_negative_zeros(negative)] if negative and not normalize_zeros else []

    def check(written: Path) -> Checked:
        check_file(written, encoded, strictly=valid)
        limit = _LIMIT if exact else math.inf
        differences = trial.differences(written, limit, library) if verify else (None, None)
        feed = trial.feed if measure else None
        return Checked(differences, None if feed is None else _speed(file, written, feed, library))

    dense_bytes = model_bytes(model, reader)
    checked = write_model(place, encoded.model, reader, check)
    notes += [*trial.notes, *trial.about(chosen=target == SPARSE, compared=verify, measured=measure)]
    return make_report(
        path, encoded, wanted, checked, bytes_dense=dense_bytes, reference="the original file", notes=notes
    )


def unpack_onnx(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> ExportReport:
    """Write a packed ONNX file with plain initializers again, to the bits that the packed one holds.

    Rebuilds what `export` and `pack_onnx` stored in any encoding, and sparse initializers of other writers. The graph
    is that of the original file; only the order of its initializers may differ, and behind what was a sparse operator
    the names of values between layer, addition and activation. Raises ExportError as `pack_onnx`.
    """
    file, place = Path(source), check_target(path)
    model, reader = _read(file)
    valid, wanted = invalid(file) is None, Wanted("dense")
    encoded = describe(as_it_is(model, reader), model, wanted, {}, {})
    size = model_bytes(model, reader)

    def check(written: Path) -> Checked:
        check_file(written, encoded, strictly=valid)
        return Checked((None, None))

    checked = write_model(place, encoded.model, reader, check)
    return make_report(path, encoded, wanted, checked, bytes_dense=size, reference="the packed file")


def _speed(original: Path, written: Path, feed: Mapping[str, Any], library: str | None) -> Speed:
    """The written file against the original or, if that has sparse operators, against its dense twin."""
    if not sparse_weights(load_onnx(original)):
        return measure_files(original, written, feed, library=library)
    with tempfile.TemporaryDirectory() as folder:
        unpack_onnx(original, f"{folder}/dense.onnx")
        return measure_files(Path(folder) / "dense.onnx", written, feed, library=library)


def _read(file: Path) -> tuple[onnx.ModelProto, TensorReader]:
    """The model with plain initializers, which may still lie in external data."""
    model, reader = load_onnx(file), TensorReader(file.parent)
    try:
        model = unpacked(model, reader)
        model = to_dense(model, reader.array) if sparse_weights(model) else model
        constant_initializers(model)
        initializers = {tensor.name for tensor in model.graph.initializer}
        for name, tensor in stored_tensors(model.graph):
            # Those inside branches and nodes are small; they must not refer to the old folder.
            if isinstance(tensor, onnx.TensorProto) and name not in initializers:
                tensor.CopyFrom(reader.inline(tensor))
    except (ValueError, TypeError) as error:
        raise ExportError(f"{file}: a tensor is damaged ({error}); write the file again") from error
    except ExportError as error:
        raise ExportError(f"{file}: {error}") from error
    return model, reader


def _about_negative_zeros(count: int) -> str:
    return (
        f"{count:,} weights are -0.0 and were stored like other values, to keep every bit; pass normalize_zeros=True "
        "(--normalize-zeros) to store them as zeros"
    )
