"""The last check: the pruned model as ONNX in onnxruntime, wherever the dense model can be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.coverage.bench import Bench
from sparsify_fx.errors import CoverageError, ExportError
from sparsify_fx.onnx_export import export


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
        reason = error
    try:
        _export(bench, bench.rebuilt(), file, verify=False)
    except ExportError as error:
        raise NoDenseExport(str(error)) from error
    try:
        _export(bench, bench.rebuilt(), file)
    except ExportError as error:
        raise CoverageError(f"{reason} -- the dense model's file differs too: {error}") from reason
    raise CoverageError(f"the dense model exports, the pruned one does not: {reason}") from reason


def _export(bench: Bench, model: nn.Module, file: Path, *, verify: bool = True) -> str:
    """Export with a free batch size, or with a fixed one where torch.onnx cannot do that."""
    inputs = bench.trial.inputs
    attempts: tuple[bool, ...] = (True, False)
    if bench.trial.as_list:
        model, inputs, attempts = _OfTensors(model), tuple(inputs[0]), (False,)
    for dynamic in attempts:
        try:
            found = export(model, file, inputs, dynamic_batch=dynamic, verify=verify).max_rel_difference
            return _remark(found, fixed=not dynamic)
        except ExportError:
            torch.compiler.reset()
            if dynamic is attempts[-1]:
                raise
    raise AssertionError("no attempt was made")


def _remark(found: float | None, *, fixed: bool) -> str:
    return f"{0.0 if found is None else found:.1e}{', fixed batch size' if fixed else ''}"
