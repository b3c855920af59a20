"""`inspect_file`: what an ONNX file or a checkpoint holds, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError, ExportError
from sparsify_fx.onnx_export.checks.twins import measure_onnx, onnx_choice
from sparsify_fx.onnx_export.files.kinds import Kind
from sparsify_fx.onnx_export.files.recognition import kind_of
from sparsify_fx.onnx_export.files.shards import files_of_folder, shards_of_index
from sparsify_fx.onnx_export.files.targets import check_source
from sparsify_fx.onnx_export.inspection.inspect_checkpoint import (
    Contents,
    safetensors_contents,
    torch_contents,
)
from sparsify_fx.onnx_export.inspection.inspect_onnx import onnx_rows
from sparsify_fx.onnx_export.report.export_report import FileReport
from sparsify_fx.onnx_export.report.rows import count_weights
from sparsify_fx.onnx_tools.signature import Asked

_READERS: dict[str, Callable[[Path], Contents]] = {
    "onnx": lambda file: Contents(*onnx_rows(file)),
    "safetensors": safetensors_contents,
    "torch": torch_contents,
}


def inspect_file(
    path: str | os.PathLike[str],
    *,
    measure: bool = False,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    axes: Mapping[str, int] | None = None,
) -> FileReport:
    """Shape, density, zeros and bytes of every tensor in a file, and the totals of its prunable weights.

    Reads ONNX files (ours and foreign, external data too), safetensors, torch files (never running what is pickled in
    them), the JSON index of a checkpoint in shards, and a folder that holds one of these. The content says which it is,
    the suffix only where the content does not. Prunable are: in ONNX the weights of convolutions, matrix products and
    recurrent operators; in a checkpoint of a rewritten model its weight programs, shown as the weight they give; in
    other checkpoints every float tensor of two or more dimensions, sparse and quantized ones too. What several tensors
    make up is one weight: torch's pruning masks and weight norms, and quantized weights of torchao and
    compressed-tensors, whose zeros are the zero point. A checkpoint's parts ("ema", "model") are all shown, with their
    keys as prefixes; the states of optimizers, schedules and random generators are not.

    Of an ONNX file with sparse operators it also says which layers they are and how these were chosen; with `measure`
    how fast an ONNX file is beside the same model with plain weights, for `inputs`, `input_shapes` and `axes` as in
    `pack_onnx`.

    Raises CheckpointError (ONNX: ExportError) for files that are missing, damaged, or of another kind, which it names;
    with `measure` also for checkpoints, which do not run, and RuntimeLibraryError when the file needs the library and
    there is none.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": {"fc.weight": torch.eye(4)}}, f"{folder}/run.pt")
    ...     inspect_file(f"{folder}/run.pt").sparsity
    0.75
    """
    # Of which kind files are their content says; suffixes are often wrong.
    files = _files(check_source(path))
    kinds = [readable_kind(file) for file in files]
    kind = kinds[0]
    if len(set(kinds)) > 1:
        raise CheckpointError(
            f"{path} has shards of several kinds ({', '.join(sorted(set(kinds)))}); give one of them"
        )
    if measure and kind != "onnx":
        raise CheckpointError(
            f"cannot measure {path}: it is no ONNX file; export it first, or leave out measure"
        )
    asked = Asked(inputs or {}, input_shapes or {}, axes or {})
    if asked != Asked() and not measure:
        raise ExportError(
            "sizes are for measuring: pass measure=True (--measure) too, or leave them out"
        )
    contents = [_READERS[kind](file) for file in files]
    layers = tuple(chain.from_iterable(content.rows for content in contents))
    speed, measured_for = measure_onnx(files[0], asked) if measure else (None, "")
    weights, nonzeros, sparsity = count_weights(layers)
    return FileReport(
        os.fspath(path), kind, sum(file.stat().st_size for file in files), sparsity, nonzeros, weights, layers,
        speed=speed,
        measured_for=measured_for,
        choice=onnx_choice(files[0]) if kind == "onnx" else None,
        notes=tuple(dict.fromkeys(chain.from_iterable(content.notes for content in contents))),
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    """The file itself, or the shards of an index or a folder."""
    files = files_of_folder(path) if path.is_dir() else [path]
    if len(files) == 1 and files[0].is_file() and readable_kind(files[0]) == "index":
        return shards_of_index(files[0])
    return files


def readable_kind(file: Path) -> str:
    """The kind of a file that can be read."""
    # Errors are of the class of what the user meant to inspect.
    error = ExportError if file.suffix == ".onnx" else CheckpointError
    if not file.is_file():
        raise error(
            f"cannot inspect {file}: it does not exist; give an .onnx, .safetensors, .pt or .pth file"
        )
    try:
        kind = kind_of(file) if file.stat().st_size else ""
    except OSError as problem:
        raise error(
            f"cannot read {file}: {problem.strerror}; check its permissions"
        ) from problem
    if kind == "":
        raise error(
            f"{file} is empty; expected an ONNX file or a checkpoint: write it again"
        )
    if kind is None:
        raise error(
            f"{file} is neither ONNX nor safetensors nor a torch file; give one of these"
        )
    if isinstance(kind, Kind):
        raise error(
            f"{file} is {kind.name}, neither ONNX nor safetensors nor a torch file; {kind.remedy}"
        )
    return kind
