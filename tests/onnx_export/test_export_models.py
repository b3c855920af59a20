"""`export` of models of every kind: many inputs, other classes, other floats."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import sparsify_fx
from sparsify_fx.onnx_export import export
from sparsify_fx.onnx_export.files.metadata import get_metadata
from tests.onnx_export.models import expected, mlp, run, stored, zeroed

pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None
    states: tuple[Tensor, ...]


class Many(nn.Module):
    """Several inputs, and outputs of every kind: a name that clashes, one tensor twice, integers, None."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc, self.logits = (
            kind,
            nn.Linear(6, 4),
            nn.Parameter(torch.ones(4)),
        )

    def forward(self, left: Tensor, right: Tensor, shift: Tensor) -> Any:
        logits = self.fc(left * right + shift) + self.logits
        if self.kind == "dataclass":
            return Answer(logits, None, (left + 1, logits))
        if self.kind == "dict":
            return {
                "logits": logits,
                "loss": None,
                "classes": logits.argmax(-1),
                "count": 3,
            }
        return logits, [logits, left]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("tuple", ["output_0", "output_1_0", "output_1_1"]),
        ("dict", ["logits_out", "classes"]),
        ("dataclass", ["logits_out", "states_0", "states_1"]),
    ],
)
def test_many_inputs_and_outputs(tmp_path: Path, kind: str, names: list[str]) -> None:
    model, inputs = Many(kind), (torch.randn(1, 6), torch.randn(1, 6), torch.randn(6))
    export(model, tmp_path / "m.onnx", inputs)
    assert [
        item.name for item in onnx.load(str(tmp_path / "m.onnx")).graph.output
    ] == names
    larger = (torch.randn(5, 6), torch.randn(5, 6), inputs[2])
    got, answer = run(tmp_path / "m.onnx", *larger), expected(model, *larger)
    logits = (
        answer[0]
        if kind == "tuple"
        else answer["logits"]
        if kind == "dict"
        else answer.logits
    )
    np.testing.assert_allclose(got[0], logits.numpy(), atol=1e-5)
    assert got[1].shape[0] == 5


def test_static_batch_and_opset(tmp_path: Path) -> None:
    report = export(
        nn.Linear(4, 2),
        tmp_path / "m.onnx",
        torch.randn(3, 4),
        dynamic_batch=False,
        opset=18,
    )
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert report.opset == 18 == model.opset_import[0].version


def test_graph_modules_compiled_models_and_other_floats(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4)
    for variant in (
        fx.symbolic_trace(model),
        torch.compile(model),
        nn.DataParallel(model),
    ):
        export(variant, tmp_path / "m.onnx", inputs)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            run(tmp_path / "m.onnx", inputs)[0],
            expected(model, inputs).numpy(),
            atol=1e-6,
        )
        assert "0.weight" in stored(tmp_path / "m.onnx")
    half = copy.deepcopy(model).bfloat16()
    export(half, tmp_path / "m.onnx", inputs.bfloat16())
    assert stored(tmp_path / "m.onnx")["0.weight"].dtype == np.float32
    assert half[0].weight.dtype == torch.bfloat16


def test_recurrent_layers_count_as_prunable(tmp_path: Path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])  # type: ignore[no-any-return]

    model = zeroed(Tagger(), 0.75)
    report = export(model, tmp_path / "m.onnx", torch.randn(2, 5, 8))
    assert (report.weights, report.sparsity) == (4 * 16 * (8 + 16) + 64, 0.75)


def test_the_method_of_a_rewritten_model_is_named(tmp_path: Path) -> None:
    model = sparsify_fx.apply(mlp(), method="random", sparsity=0.8)
    export(model, tmp_path / "m.onnx", torch.randn(3, 400))
    entries = get_metadata(onnx.load(str(tmp_path / "m.onnx")))
    assert (entries["method"], entries["seed"]) == ("random", "0")
