"""The last check: the pruned model as ONNX in onnxruntime, wherever the dense model can be exported."""

from __future__ import annotations

import gc
import math
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.coverage.bench import Bench
from sparsify_fx.coverage.measure import difference, evaluate, in_double
from sparsify_fx.errors import CoverageError, ExportError
from sparsify_fx.onnx_export import export

_TOLERANCE = 1e-4
_MARGIN = 10.0


class NoDenseExport(Exception):
    """The dense model cannot be exported either; the message says why."""


class _OfTensors(nn.Module):
    """A model that takes a list of images, as one that takes each image as an argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *images: Tensor) -> Any:
        return self.model(list(images))


def check_onnx(bench: Bench) -> str:
    """`export` writes the pruned model, and onnxruntime gives its outputs; or torch.onnx cannot write the dense one.

    A dense file whose outputs differ in onnxruntime is an export all the same: the check has failed then, and says so.
    """
    file = bench.folder / "model.onnx"
    bench.start_again()
    try:
        return _export(bench, bench.ready_to_copy(0.9)[0], file)
    except ExportError as error:
        reason = _released(error)
    bench.clear()
    try:
        _write(bench, bench.rebuilt(), file, None)
    except ExportError as error:
        raise NoDenseExport(str(error)) from error
    try:
        _export(bench, bench.rebuilt(), file)
    except ExportError as error:
        raise CoverageError(f"{reason} -- the dense model's file differs too: {error}") from reason
    raise CoverageError(f"the dense model exports, the pruned one does not: {reason}") from reason


def _export(bench: Bench, model: nn.Module, file: Path) -> str:
    """Export within 1e-4, or within what float32 allows: ten times what it makes in PyTorch alone, measured."""
    try:
        return _remark(*_write(bench, model, file, _TOLERANCE))
    except ExportError as error:
        reason = _released(error)
    rounding = _rounding(bench, model)
    if rounding * _MARGIN <= _TOLERANCE:
        raise reason
    torch.compiler.reset()
    found = _remark(*_write(bench, model, file, rounding * _MARGIN))
    return f"{found} by rounding of float32, which makes {rounding:.1e} in PyTorch alone"


def _released(error: ExportError) -> ExportError:
    """The error, whose frames no longer hold the model in ONNX, nor the session that gave the outputs."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()
    return error


def _rounding(bench: Bench, model: nn.Module) -> float:
    """The difference between the model in float32 and in float64; 0 where the two do not compare (detections)."""
    single = evaluate(model, bench.trial.inputs)
    try:  # in place, and exactly back: some models leave no room for a copy
        double = evaluate(model.double(), in_double(bench.trial.inputs))
    finally:
        model.float()
    try:
        found = difference(double, {name: value.to(double[name].dtype) for name, value in single.items()})
    except (CoverageError, KeyError):
        return 0.0
    return found if math.isfinite(found) else 0.0


def _write(bench: Bench, model: nn.Module, file: Path, tolerance: float | None) -> tuple[float | None, bool]:
    """The difference and whether the batch size is fixed: it is where torch.onnx can export no free one.

    Without a tolerance the file is written as torch.onnx makes it, and not compared.
    """
    inputs, verify = bench.trial.inputs, tolerance is not None
    if bench.trial.as_list:
        model, inputs = _OfTensors(model), tuple(inputs[0])
    else:
        try:
            return export(
                model, file, inputs, tolerance=tolerance, verify=verify, optimize=verify
            ).max_rel_difference, False
        except ExportError as error:
            _released(error)
            torch.compiler.reset()
    report = export(model, file, inputs, dynamic_batch=False, tolerance=tolerance, verify=verify, optimize=verify)
    return report.max_rel_difference, True


def _remark(found: float | None, fixed: bool) -> str:
    return f"{0.0 if found is None else found:.1e}{', fixed batch size' if fixed else ''}"
