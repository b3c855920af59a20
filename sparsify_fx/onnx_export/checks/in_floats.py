"""Outputs of quantized models whose layers compute in float32: compared with what the original means.

onnxruntime computes a layer between activations in 8 bits in integers, and on processors without dot products of bytes
lets sums of two products overflow (they saturate). So both files run with every layer in float32, and differ by values
that fall on the other side of a rounding to 8 bits, and by what later layers make of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.comparing import Trial
from sparsify_fx.onnx_export.checks.verify import Runtime
from sparsify_fx.onnx_export.files.tensors import load_onnx
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.sparse_ort import library_for
from sparsify_fx.onnx_tools.values import UnlikeError, measure_difference

LIMIT = 0.02
"""Of an output's largest value: five of the 255 steps that 8 bits have."""
_OWN = 4
"""Or so many times what onnxruntime's two ways to compute the original in float32 differ by."""


def holds_quantized(rows: Iterable[LayerRow]) -> bool:
    """Whether sparse operators hold weights of layers that were quantized."""
    return any(row.is_quantized and row.encoding == SPARSE for row in rows)


def compare_in_floats(trial: Trial, written: Path, library: str | None) -> None:
    """Compare with the original where both compute in float32, and note how far they are apart.

    Raises ExportError above the limit.
    """
    if trial.feed is None:
        return  # `Trial.differences` says why nothing is compared
    feed = trial.feed
    own_library = library_for(load_onnx(trial.file))
    expected = _outputs(Runtime(trial.file, own_library, in_floats=True), feed)
    other = _outputs(Runtime(trial.file, own_library, optimized=False), feed)
    got = _outputs(Runtime(written, library, in_floats=True), feed)
    worst = 0.0
    for name in expected.keys() - trial.random:
        try:
            (_, own), (_, found) = (
                measure_difference(expected[name], each[name]) for each in (other, got)
            )
        except UnlikeError as error:
            raise ExportError(
                f"output {name!r} is unlike that of the original file: {error}; the file is not written"
            ) from error
        worst, limit = max(worst, found), max(LIMIT, _OWN * own)
        if not found <= limit:
            raise ExportError(
                f"output {name!r} differs by {found:.3g} of its largest value from the original file where both "
                f"compute in float32, and rounding to 8 bits explains {limit:.3g}; the file is not written"
            )
    trial.notes.append(
        f"with all layers in float32 the outputs of both files differ by at most {worst:.1e} of the largest value; the "
        "largest difference in this report is to the original in integers, and has what onnxruntime rounds there"
    )


def _outputs(runtime: Runtime, feed: Mapping[str, Any]) -> dict[str, Any]:
    names = [item.name for item in runtime.session.get_outputs()]
    return dict(zip(names, runtime.run_feed(feed), strict=True))
