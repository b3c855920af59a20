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
    """`export` writes the pruned model, and onnxruntime gives its outputs; or the dense model has no export either."""
    file = bench.folder / "model.onnx"
    bench.start_again()
    try:
        return _export(bench, bench.ready_to_copy(0.9)[0], file)
    except ExportError as error:
        reason = error
    try:
        _export(bench, bench.rebuilt(), file)
    except ExportError as error:
        raise NoDenseExport(str(error)) from error
    raise CoverageError(f"the dense model exports, the pruned one does not: {reason}")


def _export(bench: Bench, model: nn.Module, file: Path) -> str:
    """Export with a free batch size, or with a fixed one where torch.onnx cannot do that."""
    inputs = bench.trial.inputs
    if bench.trial.as_list:
        model, inputs = _OfTensors(model), tuple(inputs[0])
    try:
        if bench.trial.as_list:
            return _remark(export(model, file, inputs, dynamic_batch=False).max_rel_difference, fixed=True)
        return _remark(export(model, file, inputs).max_rel_difference, fixed=False)
    except ExportError:
        if bench.trial.as_list:
            raise
        torch.compiler.reset()
        return _remark(export(model, file, inputs, dynamic_batch=False).max_rel_difference, fixed=True)


def _remark(found: float | None, *, fixed: bool) -> str:
    return f"{found:.1e}{', fixed batch size' if fixed else ''}"
