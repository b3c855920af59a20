"""A file with sparse operators: how its layers were chosen, and how fast it is beside its dense twin."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from sparsify_fx.onnx_export.made_up import made_up_inputs
from sparsify_fx.onnx_export.measure import Speed, measure
from sparsify_fx.onnx_export.metadata import CHOICE, get_metadata
from sparsify_fx.onnx_export.sparse_ort import library_for
from sparsify_fx.onnx_export.tensors import load_onnx
from sparsify_fx.onnx_export.unpack import unpack_onnx
from sparsify_fx.runtime.restore import sparse_weights


def onnx_choice(file: Path) -> dict[str, Any] | None:
    """How the file says that its sparse layers were chosen; None when it has none."""
    model = load_onnx(file)
    try:
        found = json.loads(get_metadata(model).get(CHOICE, ""))
    except ValueError:
        return None
    return found if isinstance(found, dict) and sparse_weights(model) else None


def measure_onnx(file: Path) -> Speed:
    """Load time, memory and latency of an ONNX file against its own dense twin, on made-up inputs, in the same run.

    Raises ExportError when the file cannot be rebuilt, run or measured, RuntimeLibraryError when it needs the library.
    """
    model = load_onnx(file)
    library = library_for(model)
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        unpack_onnx(file, dense)
        return measure(dense, file, made_up_inputs(model), library=library)
