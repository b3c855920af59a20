"""`export`: a merged copy of a model as a checked, sparsely stored ONNX file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from torch import Tensor, nn

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.clean import normalise_zeros, set_producer, strip_metadata
from sparsify_fx.onnx_export.encodings import (
    ENCODING_NAMES,
    VALUE_NAMES,
    Encoded,
    Wanted,
    check_bits,
    encode_initializers,
)  # fmt: skip
from sparsify_fx.onnx_export.files import check_target, write_checked
from sparsify_fx.onnx_export.names import name_outputs, restore_weight_names
from sparsify_fx.onnx_export.outputs import flatten_outputs, named_tensors
from sparsify_fx.onnx_export.prepare import example_tensors, merged_copy, run_model, untouched_rng
from sparsify_fx.onnx_export.report import ExportReport, LayerRow, count_weights
from sparsify_fx.onnx_export.trace import batch_of, opset_of, trace, with_batch
from sparsify_fx.onnx_export.verify import Arrays, Runtime, compare

TARGETS = ("onnx",)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    encoding: str = "auto",
    values: str = "fp32",
    target: str = "onnx",
    opset: int | None = None,
    dynamic_batch: bool = True,
    verify: bool = True,
    verify_inputs: Tensor | tuple[Tensor, ...] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write `model` to an ONNX file with its zeros stored sparsely, once onnxruntime agrees with PyTorch on it.

    Args:
        model: any module, rewritten by `apply` or not. It is only read: a copy is merged, put in eval mode, converted
            to float32 and traced on the CPU.
        path: the file to write; it appears whole, after all checks, or not at all.
        example_inputs: a Tensor or a tuple of Tensors that the forward takes, batch first.
        encoding: `coo` stores every float tensor that has a zero as `sparse_initializer`, `dense` none, `auto`
            exactly those that shrink (float32 above a sparsity of about 0.5: 4 + 1 to 4 bytes per non-zero, not 4
            per entry).
        values, target: only `fp32` and `onnx` so far.
        opset: version of the standard operators; None takes torch.onnx's.
        dynamic_batch: the first axis of all inputs that share the first one's batch size can have any size.
        verify: compare with PyTorch in onnxruntime, with `verify_inputs` (default: the examples) and, with a dynamic
            batch, with one sample more. Stored bits are checked in any case.
        tolerance: the largest difference, as a fraction of the largest value of an output.

    Raises:
        UnknownNameError: unknown encoding, values or target.
        ExportError: everything else: a path that cannot be written, NaN or Inf weights, inputs that the model does
            not take, an operator that ONNX lacks, more than 2 GB, a result that differs. `path` is then as before.

    >>> import tempfile, torch
    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    >>> nn.init.zeros_(model[0].weight[:, 1:]).shape
    torch.Size([4, 7])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export(model, f"{folder}/model.onnx", torch.randn(1, 8))
    >>> report.weights, report.nonzeros, report.sparsity, report.layers[0].encoding
    (32, 4, 0.875, 'coo')

    Source: ONNX `sparse_initializer` (IR version 5 and later).
    """
    _check_choices(
        {"encoding": (encoding, ENCODING_NAMES), "values": (values, VALUE_NAMES), "target": (target, TARGETS)}
    )
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ExportError(f"tolerance={tolerance!r} must be a positive finite number, for instance 1e-4")
    place = check_target(path)
    inputs = example_tensors(example_inputs)
    probes = inputs if verify_inputs is None else example_tensors(verify_inputs, "verify_inputs")
    with untouched_rng():
        copied = merged_copy(model)
        reference = _reference(copied, inputs, probes, dynamic_batch)
        flatten_outputs(copied)
        dense = trace(copied, inputs, len(reference.names), opset=opset, dynamic_batch=dynamic_batch)
    _tidy(dense, copied, reference.names)
    encoded = encode_initializers(dense, Wanted(encoding, values))
    data = _serialise(encoded.model)

    def check(written: Path) -> tuple[float | None, float | None]:
        _check_file(written, encoded)
        return reference.differences(Runtime(written), tolerance) if verify else (None, None)

    absolute, relative = write_checked(place, data, check)
    return _report(path, dense, len(data), encoded.rows, (absolute, relative))


@dataclass(frozen=True)
class _Reference:
    """What PyTorch answers: the names of its outputs, and its outputs on each tuple of inputs."""

    names: list[str]
    runs: list[tuple[tuple[Tensor, ...], Arrays]]

    def differences(self, runtime: Runtime, tolerance: float) -> tuple[float, float]:
        """The largest absolute and relative difference over all runs; ExportError above the tolerance."""
        found = [compare(outputs, runtime.run(inputs), self.names, tolerance) for inputs, outputs in self.runs]
        return max(a for a, _ in found), max(r for _, r in found)


def _reference(model: nn.Module, inputs: tuple[Tensor, ...], probes: tuple[Tensor, ...], grow: bool) -> _Reference:
    """Run the copy on the inputs to verify with and, with `grow`, on a batch that is one larger."""
    pairs = named_tensors(run_model(model, inputs, "the model does not take these example_inputs"))
    if not pairs:
        raise ExportError("the model returns no tensor; expected a Tensor or a tuple, dict or dataclass of Tensors")
    cases = {"the model does not take these verify_inputs": probes}
    if grow:
        more = with_batch(inputs, batch_of(inputs) + 1)
        cases["the model does not take another batch size; pass dynamic_batch=False"] = more
    runs = [(case, _arrays(run_model(model, case, complaint))) for complaint, case in cases.items()]
    return _Reference([name for name, _ in pairs], runs)


def _arrays(output: Any) -> Arrays:
    return [tensor.detach().contiguous().numpy() for _, tensor in named_tensors(output)]


def _tidy(dense: onnx.ModelProto, model: nn.Module, outputs: list[str]) -> None:
    """Metadata away, readable names, one kind of zero, our name as producer; in place."""
    strip_metadata(dense)
    restore_weight_names(dense.graph, model)
    name_outputs(dense.graph, outputs)
    normalise_zeros(dense)
    set_producer(dense)


def _serialise(model: onnx.ModelProto) -> bytes:
    """The bytes of the file, the same ones every time."""
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportError(
            "the ONNX file would exceed 2 GB, which is not supported yet; export a smaller model"
        ) from error
    return data


def _check_file(path: Path, encoded: Encoded) -> None:
    """The written file is valid ONNX and holds the same bits."""
    try:
        written = onnx.load(str(path))
        # Without full_check: onnx's shape inference does not know sparse initializers.
        onnx.checker.check_model(written)
    except (onnx.checker.ValidationError, DecodeError) as error:
        raise ExportError(f"the exported model is not valid ONNX: {error}") from error
    check_bits(encoded.digests, written)


def _report(
    path: str | os.PathLike[str],
    dense: onnx.ModelProto,
    bytes_file: int,
    rows: tuple[LayerRow, ...],
    differences: tuple[float | None, float | None],
) -> ExportReport:
    weights, nonzeros, sparsity = count_weights(rows)
    bytes_dense = dense.ByteSize()  # exactly what serialising it would give
    return ExportReport(
        path=os.fspath(path),
        opset=opset_of(dense),
        sparsity=sparsity,
        nonzeros=nonzeros,
        weights=weights,
        bytes_dense=bytes_dense,
        bytes_file=bytes_file,
        ratio=bytes_dense / bytes_file,
        max_abs_difference=differences[0],
        max_rel_difference=differences[1],
        layers=rows,
    )


def _check_choices(choices: dict[str, tuple[str, Iterable[str]]]) -> None:
    """Every word is one of the known ones."""
    for kind, (given, known) in choices.items():
        if given not in known:
            raise unknown(kind, str(given), known)
