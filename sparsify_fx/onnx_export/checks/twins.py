"""A file with sparse operators: how its layers were chosen, and how fast it is beside its dense twin."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.comparing import trial_of
from sparsify_fx.onnx_export.checks.measure import Speed, measure
from sparsify_fx.onnx_export.files.metadata import CHOICE, get_metadata
from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_export.sparse_ort import library_for
from sparsify_fx.onnx_export.unpack import unpack_onnx
from sparsify_fx.onnx_tools.signature import Asked
from sparsify_fx.runtime.restore import sparse_weights


def onnx_choice(file: Path) -> dict[str, Any] | None:
    """How the file says that its sparse layers were chosen; None when it has none."""
    model = load_onnx(file)
    try:
        found = json.loads(get_metadata(model).get(CHOICE, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) and sparse_weights(model) else None


def measure_onnx(file: Path, asked: Asked) -> tuple[Speed, str]:
    """Load time, memory and latency of an ONNX file against its own dense twin, in the same run, and for which sizes.

    Raises ExportError when the file cannot be rebuilt, run or measured, RuntimeLibraryError when it needs the library,
    InputError and UnknownNameError for sizes that contradict the file.
    """
    model, reader = load_onnx(file), TensorReader(file.parent)
    library = library_for(model)
    trial = trial_of(file, model, reader, asked, run=True, shapes=False)
    if trial.feed is None:
        raise ExportError(f"cannot measure {file}: {trial.problem}")
    with tempfile.TemporaryDirectory() as folder:
        # The twin has the same weights to the bit, so any difference in time is that of
        # the kernels.
        dense = Path(folder) / "dense.onnx"
        unpack_onnx(file, dense)
        speed = measure(dense, file, trial.feed, library=library)
    return speed, " ".join(trial.about(chosen=False, compared=False, measured=True))
