"""`pack_onnx`: an existing ONNX file, stored sparsely."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparsify_fx.errors import unknown
from sparsify_fx.onnx_export.files.targets import check_source, check_target
from sparsify_fx.onnx_export.packing import Job, SignsMatterError
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.report.notes import WHERE_EQUAL
from sparsify_fx.onnx_export.sparse_ort import TARGETS, check_wanted
from sparsify_fx.onnx_export.storage.options import ENCODING_NAMES, VALUE_NAMES, Wanted
from sparsify_fx.onnx_tools.signature import Asked

_LOG = logging.getLogger(__name__)


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
            operators, and additions and activations after them a part of these; `unpack_onnx` takes them apart again.
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

    >>> import tempfile, numpy as np, onnx
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
    words = {
        "encoding": (encoding, ENCODING_NAMES),
        "values": (values, VALUE_NAMES),
        "target": (target, TARGETS),
    }
    for kind, (given, known) in words.items():
        if given not in known:
            raise unknown(kind, str(given), known)
    wanted = Wanted(encoding, values, functions, target, autotune, measure)
    check_wanted(wanted)
    file, place = check_source(source), check_target(path)
    asked = Asked(inputs or {}, input_shapes or {}, axes or {})
    job = Job(file, place, wanted, verify, measure, asked)
    drop = (
        normalize_zeros
        if normalize_zeros is not None
        else (WHERE_EQUAL if verify else False)
    )
    try:
        # Without the signs first: each -0.0 that is kept takes as much as any other
        # value.
        report = job.run(drop)
    except SignsMatterError as reason:
        _LOG.info("once more with every -0.0: %s", reason)
        report = job.run(False, [f"-0.0 was kept: {reason}"])
    return replace(report, path=os.fspath(path))
