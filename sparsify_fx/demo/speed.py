"""The demo's last step: the trained sparse model in the sparse runtime, against the dense file in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from sparsify_fx import runtime
from sparsify_fx.errors import ExportError, RuntimeLibraryError
from sparsify_fx.onnx_export import export
from sparsify_fx.onnx_export.checks.verify import same_predictions

# Digits at a time: with a single one of 28x28 the session's overhead would be all there is to time.
BATCH = 64


@dataclass(frozen=True)
class SparseSpeed:
    """One model in the sparse runtime.

    `faster`: time of the dense file / time of this one, medians of runs in turn, one thread, `batch` images each; None
    when it could not be measured, and `said` then holds the reason. `milliseconds_dense`, `milliseconds`: of the
    processor.
    """

    method: str
    batch: int
    sparse_layers: tuple[str, ...]
    same_predictions: int
    faster: float | None
    onnx: str
    said: str
    milliseconds_dense: float | None = None
    milliseconds: float | None = None

    def _times(self) -> str:
        if self.milliseconds is None:
            return ""
        return f"{self.milliseconds_dense:.3g} ms dense, {self.milliseconds:.3g} ms sparse; "

    def sentence(self) -> str:
        """The figure in words."""
        return f"sparse runtime, {self.method}, {self.batch} digits at a time: {self._times()}{self.said}"


def sparse_speed(
    model: nn.Module, images: Tensor, folder: Path, method: str
) -> SparseSpeed:
    """Export for the sparse runtime, check every prediction against PyTorch, and time it against the dense file.

    Raises ExportError when a prediction differs. Without the compiled library nothing is written, and `said` says why.
    """
    # The demo goes on without the kernels, which some platforms have not: the table says so.
    path = folder / f"{method}-sparse-ort.onnx"
    try:
        runtime.library()
    except RuntimeLibraryError as error:
        return SparseSpeed(method, BATCH, (), 0, None, "", f"not measured: {error}")
    report = export(
        model, path, images[:BATCH], target="sparse-ort", autotune=True, measure=True, verify_inputs=images
    )  # fmt: skip
    same = same_predictions(model, runtime.session(path), images)
    if same != len(images):
        raise ExportError(
            f"{path}: onnxruntime and PyTorch predict differently on {len(images) - same} digits"
        )
    assert report.speed is not None  # measured above
    # The ratio is sparse over dense; people ask how many times faster.
    speed = report.speed
    return SparseSpeed(
        method,
        BATCH,
        report.sparse_layers,
        same,
        1 / speed.cpu_latency_ratio,
        str(path),
        report.verdict,
        1000 * speed.cpu_latency_dense,
        1000 * speed.cpu_latency,
    )
