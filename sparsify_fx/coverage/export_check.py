"""The last check: the pruned model as ONNX in onnxruntime, wherever the dense model can be exported."""

from __future__ import annotations

import gc
import math
import traceback
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.coverage.bench import Bench
from sparsify_fx.coverage.measure import calibrate, difference, evaluate, in_double
from sparsify_fx.errors import CoverageError, ExportError, PassError, PassWarning
from sparsify_fx.onnx_export import export

_TOLERANCE = 1e-4
_MARGIN = 10.0
_UNSTEADY = 1e-2
"""Where rounding makes more than this share of an output, a comparison proves nothing."""
_SAMPLES = 32
_ANY = 1e30
"""The tolerance of `export`: differences are judged here, so that one export is enough."""


class NoDenseExport(Exception):
    """The dense model cannot be exported either; the message says why."""


class UnsteadyError(CoverageError):
    """Rounding alone changes the outputs so much that they prove nothing."""


# `export` wants every input as a tensor of its own, with a name and a shape; a list of images is one argument.
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
    # 1. The pruned model. The one on the bench was merged, so a fresh one is pruned again.
    bench.start_again()
    try:
        return _steadily(bench, bench.ready_to_copy(0.9)[0])
    except ExportError as error:
        reason = _released(error)

    # 2. It failed: is it our fault? What torch.onnx cannot write dense either is no failure of this package.
    bench.clear()
    try:
        _export(bench, bench.rebuilt(), verify=False)
    except ExportError as error:
        raise NoDenseExport(str(error)) from error

    # 3. It is, unless the dense file answers otherwise too; then the reason names both.
    try:
        _export(bench, bench.rebuilt())
    except ExportError as error:
        raise CoverageError(
            f"{reason} -- the dense model's file differs too: {error}"
        ) from reason
    raise CoverageError(
        f"the dense model exports, the pruned one does not: {reason}"
    ) from reason


def _steadily(bench: Bench, model: nn.Module) -> str:
    """Export; norms that saw two samples alone can make a deep network chaotic, and are calibrated once more then."""
    try:
        return _export(bench, model)
    except UnsteadyError:
        samples = [
            torch.is_tensor(x) and x.is_floating_point() for x in bench.trial.training
        ]
        # More samples can be made of noise only where each input is a batch of numbers.
        if not all(samples):
            raise
    generator = torch.Generator().manual_seed(6)
    calibrate(
        model,
        tuple(
            torch.randn(_SAMPLES, *x.shape[1:], generator=generator)
            for x in bench.trial.training
        ),
    )
    torch.compiler.reset()
    return f"{_export(bench, model)}, norms calibrated on {_SAMPLES} samples"


def _export(bench: Bench, model: nn.Module, *, verify: bool = True) -> str:
    """Write the model with a free batch size or, where that fails, a fixed one; a list of images has none at all."""
    if not bench.trial.as_list:
        try:
            return _write(bench, model, dynamic=True, verify=verify)
        # Some models compute with the batch size as a number, so that it cannot stay open in a file.
        except ExportError as error:
            _released(error)
            torch.compiler.reset()
    return f"{_write(bench, model, dynamic=False, verify=verify)}, fixed batch size"


def _write(bench: Bench, model: nn.Module, *, dynamic: bool, verify: bool) -> str:
    """One export; not to be verified, the file is left as torch.onnx makes it."""
    wrapped, inputs = model, bench.trial.inputs
    if bench.trial.as_list:
        wrapped, inputs = _OfTensors(model), tuple(bench.trial.inputs[0])
    file = bench.folder / "model.onnx"
    try:
        with warnings.catch_warnings():
            # The report says what a pass left out, too, and is read below.
            warnings.simplefilter("ignore", PassWarning)
            report = export(
                wrapped,
                file,
                inputs,
                dynamic_batch=dynamic,
                tolerance=_ANY,
                verify=verify,
                optimize=verify,
            )
    except ExportError as error:
        # The proof of the passes compares outputs as well, and fails on unsteady ones without being wrong.
        if isinstance(error.__cause__, PassError):
            _released(error)
            _steady_rounding(bench, model)
        raise
    if left_out := [f"{row.name} was {row.note}" for row in report.passes if row.note]:
        # Likewise where a pass was undone after its proof failed.
        _steady_rounding(bench, model)
        raise ExportError("; ".join(left_out))
    return _judged(bench, model, report.max_rel_difference) if verify else ""


def _judged(bench: Bench, model: nn.Module, found: float | None) -> str:
    """The difference in words: at most 1e-4, or ten times what rounding to float32 makes in PyTorch alone."""
    # Rounding is measured only where it decides, for that runs the model twice more, once in float64.
    found = found or 0.0
    if found <= _TOLERANCE:
        return f"{found:.1e}"
    rounding = _steady_rounding(bench, model)
    if found > rounding * _MARGIN:
        raise ExportError(
            f"onnxruntime differs from PyTorch by {found:.1e} of an output's largest value; rounding to float32 makes "
            f"{rounding:.1e} in PyTorch alone"
        )
    return f"{found:.1e} by rounding of float32, which makes {rounding:.1e} in PyTorch alone"


def bytes_of(bench: Bench, model: nn.Module) -> int:
    """The size of the model's file as torch.onnx writes it, for one batch size; ExportError where it cannot."""
    _write(bench, model, dynamic=False, verify=False)
    return sum(file.stat().st_size for file in bench.folder.glob("model.onnx*"))


def _released(error: ExportError) -> ExportError:
    """The error, whose frames no longer hold the model in ONNX, nor the session that gave the outputs."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()
    return error


def _steady_rounding(bench: Bench, model: nn.Module) -> float:
    """What `_rounding` finds; UnsteadyError where it is more than a hundredth."""
    rounding = _rounding(bench, model)
    if rounding > _UNSTEADY:
        raise UnsteadyError(
            f"rounding to float32 makes {rounding:.1e} of the largest value in PyTorch alone; such outputs prove "
            "nothing"
        )
    return rounding


def _rounding(bench: Bench, model: nn.Module) -> float:
    """The difference between the model in float32 and in float64; 0 where the two do not compare (detections).

    Of the merged model: factors in float64 would take four times its memory.
    """
    if model is bench.model:
        bench.plain()
    # What the export left: the model in ONNX and its session, each as large as the model.
    gc.collect()
    single = evaluate(model, bench.trial.inputs)
    # In place, since some models leave no room for a copy; float32 to float64 and back changes no bit.
    try:
        double = evaluate(model.double(), in_double(bench.trial.inputs))
    finally:
        model.float()
    try:
        found = difference(
            double,
            {name: value.to(double[name].dtype) for name, value in single.items()},
        )
    # Detections in float64 can be more or fewer, so that there is nothing to compare: no tolerance is granted then.
    except (CoverageError, KeyError):
        return 0.0
    return found if math.isfinite(found) else 0.0
