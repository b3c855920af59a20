"""What PyTorch answers, to compare the exported file with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from torch import nn

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks.verify import Arrays, Runtime, compare
from sparsify_fx.onnx_export.finishing import write_dense
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.onnx_export.tracing.outputs import named_tensors
from sparsify_fx.onnx_export.tracing.prepare import run_model


@dataclass(frozen=True)
class Answer:
    """Outputs on some inputs; `doubt` is what a difference there means, for the error."""

    inputs: Inputs
    outputs: Arrays
    doubt: str = ""


@dataclass(frozen=True)
class Reference:
    """The names of the model's outputs, and its outputs on each of several inputs."""

    names: list[str]
    runs: tuple[Answer, ...]

    def with_run(self, answer: Answer | None) -> Reference:
        """One more answer to compare with, if there is one."""
        return self if answer is None else replace(self, runs=(*self.runs, answer))

    def differences(self, runtime: Runtime, tolerance: float) -> tuple[float, float]:
        """The largest absolute and relative difference over all runs; ExportError above the tolerance."""
        found = []
        for run in self.runs:
            try:
                found.append(
                    compare(
                        run.outputs,
                        runtime.run(run.inputs.tensors),
                        self.names,
                        tolerance,
                    )
                )
            # An answer at other sizes means something else when it differs: not a
            # faulty file, but one that is right for the example's sizes alone.
            except ExportError as error:
                if not run.doubt:
                    raise
                raise ExportError(
                    run.doubt.replace("{error}", str(error).strip().rstrip("."))
                ) from error
        return max(a for a, _ in found), max(r for _, r in found)


def run_reference(model: nn.Module, inputs: Inputs, probes: Inputs) -> Reference:
    """Run the copy on the inputs to verify with; ExportError when it does not take them or returns no tensor."""
    output = run_model(model, inputs, "the model does not take these example_inputs")
    # 1. On the example: whether the model runs, and the names of its outputs.
    pairs = named_tensors(output)
    if not pairs:
        raise ExportError(
            "the model returns no tensor; expected a Tensor or a tuple, dict or dataclass of Tensors"
        )
    # 2. On the inputs to verify with, if they are others.
    if probes is not inputs:
        probes = _alike(probes, inputs)
        output = run_model(model, probes, "the model does not take these verify_inputs")
    return Reference([name for name, _ in pairs], (Answer(probes, arrays(output)),))


def _alike(probes: Inputs, inputs: Inputs) -> Inputs:
    """The inputs to verify with in the order of the others; ExportError unless they go to the same parameters."""
    if (len(probes.args), set(probes.kwargs)) != (len(inputs.args), set(inputs.kwargs)):
        raise ExportError(
            f"verify_inputs hold {_row(probes)}, example_inputs {_row(inputs)}; give both for the same parameters"
        )
    return Inputs(probes.args, {name: probes.kwargs[name] for name in inputs.kwargs})


def agrees(model: onnx.ModelProto, answer: Answer, tolerance: float = 1e-2) -> bool:
    """Whether a graph gives about this answer in onnxruntime; nothing is said or raised where it does not."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        try:
            # Through a file: models beyond 2 GB load in no other way.
            file = str(write_dense(model, Path(folder)))
            session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
            names = [item.name for item in session.get_inputs()]
            tensors = (value.contiguous().numpy() for value in answer.inputs.tensors)
            got = list(session.run(None, dict(zip(names, tensors, strict=True))))
            # About, not exactly: an unrolled loop is wrong by far, and rounding is judged later.
            compare(answer.outputs, got, [""] * len(got), tolerance)
        except Exception:
            return False
    return True


def _row(inputs: Inputs) -> str:
    return f"{len(inputs.args)} positional and {sorted(inputs.kwargs) or 'no'} named Tensors"


def arrays(output: Any) -> Arrays:
    """What a model returned, as arrays."""
    return [tensor.detach().contiguous().numpy() for _, tensor in named_tensors(output)]


def runner(model: nn.Module, complaint: str) -> Callable[[Inputs], Arrays]:
    """A function that runs the model; its errors start with the complaint."""
    return lambda inputs: arrays(run_model(model, inputs, complaint))
