"""`inspect_file`: what an ONNX file or a checkpoint holds, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError, ExportError
from sparsify_fx.onnx_export.inspect_checkpoint import safetensors_rows, torch_rows
from sparsify_fx.onnx_export.inspect_onnx import onnx_rows
from sparsify_fx.onnx_export.report import FileReport
from sparsify_fx.onnx_export.rows import count_weights
from sparsify_fx.onnx_export.twins import measure_onnx, onnx_choice
from sparsify_fx.passes.onnx_graph.signature import Asked

_READERS = {"onnx": onnx_rows, "safetensors": safetensors_rows, "torch": torch_rows}
_SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors", ".pt": "torch", ".pth": "torch"}


def inspect_file(
    path: str | os.PathLike[str],
    *,
    measure: bool = False,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    axes: Mapping[str, int] | None = None,
) -> FileReport:
    """Shape, density, zeros and bytes of every tensor in a file, and the totals of its prunable weights.

    Reads `.onnx` (ours and foreign, external data too), `.safetensors` and torch files (never running what is
    pickled in them); other suffixes go by the first bytes. Prunable are: in ONNX the weights of convolutions, matrix
    products and recurrent operators; in a checkpoint of a rewritten model its weight programs, shown as the weight
    they give; in other checkpoints every float tensor of two or more dimensions.

    Of an ONNX file with sparse operators it also says which layers they are and how these were chosen; with `measure`
    how fast an ONNX file is beside the same model with plain weights, for `inputs`, `input_shapes` and `axes` as in
    `pack_onnx`.

    Raises CheckpointError (ONNX: ExportError) for files that are missing, damaged, or of another kind; with `measure`
    also for checkpoints, which do not run, and RuntimeLibraryError when the file needs the library and there is none.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": {"fc.weight": torch.eye(4)}}, f"{folder}/run.pt")
    ...     inspect_file(f"{folder}/run.pt").sparsity
    0.75
    """
    file = Path(path)
    kind = _kind(file)
    if measure and kind != "onnx":
        raise CheckpointError(f"cannot measure {file}: it is no ONNX file; export it first, or leave out measure")
    asked = Asked(inputs or {}, input_shapes or {}, axes or {})
    if asked != Asked() and not measure:
        raise ExportError("sizes are for measuring: pass measure=True (--measure) too, or leave them out")
    layers = _READERS[kind](file)
    speed, measured_for = measure_onnx(file, asked) if measure else (None, "")
    weights, nonzeros, sparsity = count_weights(layers)
    return FileReport(
        os.fspath(path), kind, file.stat().st_size, sparsity, nonzeros, weights, layers,
        speed=speed,
        measured_for=measured_for,
        choice=onnx_choice(file) if kind == "onnx" else None,
    )  # fmt: skip


def _kind(file: Path) -> str:
    """The kind of a file that exists, by its suffix or its first bytes."""
    error = ExportError if file.suffix == ".onnx" else CheckpointError
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise error(f"cannot inspect {file}: it {what}; give an .onnx, .safetensors, .pt or .pth file")
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError as problem:
        raise error(f"cannot read {file}: {problem.strerror}; check its permissions") from problem
    if not head:
        raise error(f"{file} is empty; expected an ONNX file or a checkpoint: write it again")
    kind = _SUFFIXES.get(file.suffix) or _sniff(head)
    if kind is None:
        raise error(f"{file} is neither ONNX nor safetensors nor a torch file; give one of these")
    return kind


def _sniff(head: bytes) -> str | None:
    """The kind that the first nine bytes show: zip, pickle, safetensors' JSON header, or an ONNX IR version."""
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    return "onnx" if head[:1] == b"\x08" else None
