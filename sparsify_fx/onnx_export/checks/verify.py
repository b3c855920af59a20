"""Run an ONNX file in onnxruntime and compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools.values import Difference, UnlikeError, measure_difference

Arrays = Sequence[Any]

HOW_TO_OPEN = (
    "its sparse operators need this package's library: open it with sparsify_fx.runtime.session(path), or register "
    "sparsify_fx.runtime.library() with SessionOptions.register_custom_ops_library; `sparsify-fx unpack` writes a file "
    "without them"
)


class Runtime:
    """An ONNX file loaded into onnxruntime on the CPU, with a library of operators or stock.

    `in_floats`: quantized layers compute in float32; `optimized`: onnxruntime may change the graph.
    Raises ExportError when it does not load.
    """

    def __init__(
        self,
        path: Path,
        library: str | None = None,
        *,
        in_floats: bool = False,
        optimized: bool = True,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if in_floats:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if not optimized:
            options.graph_optimization_level = (
                onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            )
        # Errors only; warnings are about unused initializers and the like.
        options.log_severity_level = 3
        if library is not None:
            options.register_custom_ops_library(library)
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime names an operator that it does not know by its domain.
            hint = f"; {HOW_TO_OPEN}" if "sparsify_fx:" in str(error) else ""
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} cannot load the model: {error}{hint}"
            ) from error

    def run(self, inputs: tuple[Tensor, ...]) -> list[Any]:
        """The outputs in order; ExportError when onnxruntime fails."""
        names = [item.name for item in self.session.get_inputs()]
        return self.run_feed(
            {
                name: value.contiguous().numpy()
                for name, value in zip(names, inputs, strict=True)
            }
        )

    def run_feed(self, feed: Mapping[str, Any]) -> list[Any]:
        """The outputs in order for inputs by name; ExportError when onnxruntime fails."""
        quiet = onnxruntime.RunOptions()
        # What fails is raised; it need not be printed too.
        quiet.log_severity_level = 4
        try:
            return list(self.session.run(None, dict(feed), quiet))
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot run the model on these inputs: {error}"
            ) from error


def compare(
    expected: Sequence[Any],
    got: Sequence[Any],
    names: Sequence[str],
    tolerance: float,
    reference: str = "PyTorch",
) -> tuple[float, float]:
    """The largest absolute difference, and the largest relative one: |a - b| / max(largest |a| of the output, 1e-3).

    Outputs are tensors of numbers or strings, sequences and maps of these, or None. Raises ExportError, naming the
    output, when numbers of outputs, types, shapes, texts or keys differ, when NaN or Inf stand elsewhere than in the
    output of the reference, or when the relative difference is above `tolerance`.

    >>> import numpy as np
    >>> compare([np.float32([2, 4])], [np.float32([2, 4.25])], ["y"], tolerance=0.1)
    (0.25, 0.0625)
    """
    if len(expected) != len(got):
        raise ExportError(
            f"onnxruntime gives {len(got)} outputs, {reference} {len(expected)}; the file is not written"
        )
    # All outputs are compared before the first is judged, so that one of another shape is
    # told whatever the others differ by.
    pairs = [
        _difference(a, b, name, reference)
        for a, b, name in zip(expected, got, names, strict=True)
    ]
    for name, (absolute, relative) in zip(names, pairs, strict=True):
        if relative > tolerance:
            raise ExportError(
                f"output {name!r} of onnxruntime differs from {reference} by {absolute:.3g} ({relative:.3g} of the "
                f"largest value), tolerance is {tolerance:g}; the file is not written. If that is good enough, raise "
                "tolerance"
            )
    return max((a for a, _ in pairs), default=0.0), max(
        (r for _, r in pairs), default=0.0
    )


def _difference(expected: Any, got: Any, name: str, reference: str) -> Difference:
    """The two differences of one output."""
    try:
        return measure_difference(expected, got)
    except UnlikeError as error:
        raise ExportError(
            f"output {name!r} of onnxruntime is unlike that of {reference}: {error}; the file is not written"
        ) from error


def same_predictions(
    model: nn.Module, session: onnxruntime.InferenceSession, images: Tensor
) -> int:
    """How many images get the same class (the largest of the outputs) from both."""
    with torch.no_grad():
        expected = model(images).argmax(1)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return int((torch.from_numpy(outputs).argmax(1) == expected).sum())
