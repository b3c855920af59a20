"""`export`: real torch.onnx, real onnxruntime, and nothing left behind when it fails."""

import copy
import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, fx, nn

import sparsify_fx
from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import ExportReport, export
from sparsify_fx.onnx_export.codecs.decoding import Decoder
from sparsify_fx.onnx_export.metadata import get_metadata, stored_weights


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def zeroed(model: nn.Module, sparsity: float) -> nn.Module:
    """Zero exactly this fraction of every matrix, the way users do: by multiplying with a mask (which makes -0.0)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                order = torch.randperm(weight.numel(), generator=generator)
                mask = (order >= round(sparsity * weight.numel())).reshape(weight.shape)
                weight.mul_(mask)
    return model


def conv_net() -> nn.Module:
    """Conv and batch norm with running statistics and scales of both signs."""
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    for norm in (first, second):
        for value in (norm.weight, norm.running_mean):
            assert value is not None
            nn.init.normal_(value)
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    body = (nn.Conv2d(3, 16, 3), first, nn.ReLU(), nn.Conv2d(16, 16, 3, bias=False), second, nn.ReLU())
    return zeroed(nn.Sequential(*body, *head), 0.9)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return zeroed(nn.Sequential(nn.Linear(400, 800), nn.GELU(), nn.Linear(800, 400)), 0.9)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model in training mode, its input, the file and the report."""

    model: nn.Module
    inputs: Tensor
    path: Path
    report: ExportReport


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, inputs, path = conv_net(), torch.randn(1, 3, 12, 12), tmp_path_factory.mktemp("conv") / "conv.onnx"
    return Exported(model, inputs, path, export(model, path, inputs))


@pytest.fixture(scope="module")
def dense_layers(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, inputs, path = mlp(), torch.randn(3, 5, 400), tmp_path_factory.mktemp("mlp") / "mlp.onnx"
    return Exported(model, inputs, path, export(model, path, inputs))


def run(path: Path, *inputs: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return list(session.run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True))))


def expected(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*inputs)


def stored(path: Path) -> dict[str, Any]:
    model = onnx.load(str(path))
    decoder, rebuilt = Decoder(model), stored_weights(model)
    return {name: decoder.array(name) for name in (*decoder.tensors, *decoder.sparse, *rebuilt)}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_runs_and_agrees(conv: Exported, dense_layers: Exported, batch: int) -> None:
    for case in (conv, dense_layers):
        inputs = torch.randn(batch, *case.inputs.shape[1:])
        (got,) = run(case.path, inputs)
        np.testing.assert_allclose(got, expected(case.model, inputs).numpy(), atol=1e-5, rtol=0)


def test_report_counts_and_measures(conv: Exported, dense_layers: Exported) -> None:
    for case in (conv, dense_layers):
        weights = [p for p in case.model.parameters() if p.dim() > 1]
        report = case.report
        assert report.weights == sum(p.numel() for p in weights)
        assert report.nonzeros == sum(int(p.count_nonzero()) for p in weights)
        assert report.sparsity == pytest.approx(0.9, abs=1e-3)
        assert report.bytes_file == case.path.stat().st_size
        assert report.ratio == report.bytes_dense / report.bytes_file
        assert report.max_abs_difference is not None
        assert report.max_rel_difference is not None
        assert report.max_abs_difference < 1e-5
        assert report.max_rel_difference < 1e-5
        assert report.path == str(case.path)


def test_large_layers_shrink_more_than_five_times(dense_layers: Exported, tmp_path: Path) -> None:
    report = dense_layers.report
    assert report.ratio > 5
    assert report.verdict == f"stock onnxruntime gains no speed from zeros; the file is {report.ratio:.1f}x smaller"
    plain = export(dense_layers.model, tmp_path / "dense.onnx", dense_layers.inputs, encoding="dense")
    assert plain.bytes_file == plain.bytes_dense == report.bytes_dense == (tmp_path / "dense.onnx").stat().st_size
    assert "not smaller" in plain.verdict


def test_weights_are_stored_bit_for_bit_under_their_names(conv: Exported, dense_layers: Exported) -> None:
    (transposed,) = (array for name, array in stored(dense_layers.path).items() if name == "0.weight.T")
    weight = dense_layers.model.get_parameter("0.weight").detach()
    assert np.array_equal(transposed, weight.T.numpy())
    head = conv.model.get_parameter("9.weight").detach()
    assert np.array_equal(stored(conv.path)["9.weight"], head.numpy())
    names = {row.name: row for row in conv.report.layers}
    assert {"0.weight", "3.weight", "9.weight"} <= names.keys()
    assert all(names[name].prunable and names[name].encoding == "coo" for name in ("0.weight", "3.weight", "9.weight"))
    # Batch norm with negative scales was folded into these, and no pruned weight became -0.0.
    for array in stored(conv.path).values():
        assert array.ndim < 2 or not (np.signbit(array) & (array == 0)).any()


def test_file_is_clean_valid_onnx(conv: Exported) -> None:
    model = onnx.load(str(conv.path))
    onnx.checker.check_model(model)
    assert (model.producer_name, model.producer_version) == ("sparsify_fx", "0.1.0")
    assert [item.name for item in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    entries = {item.key: item.value for item in model.metadata_props}
    assert entries == {
        "sparsify_fx.encoding": "auto",
        "sparsify_fx.sparsity": f"{conv.report.sparsity:.6f}",
        "sparsify_fx.values": "fp32",
    }
    assert not model.graph.metadata_props
    assert model.doc_string == ""
    assert str(Path(__file__).parent).encode() not in conv.path.read_bytes()


def test_two_exports_are_identical_and_replace_the_old_file(conv: Exported, tmp_path: Path) -> None:
    path = tmp_path / "again.onnx"
    path.write_bytes(b"old")
    export(conv.model, path, conv.inputs)
    assert path.read_bytes() == conv.path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again.onnx"]


def test_live_model_is_not_touched(tmp_path: Path) -> None:
    model = conv_net().train()
    model[7].eval()  # type: ignore[index]
    model[9].weight.requires_grad_(False)  # type: ignore[index]
    model(torch.randn(4, 3, 12, 12)).sum().backward()
    modes = [module.training for module in model.modules()]
    tensors = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    inputs = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3), requires_grad=True)
    before = inputs.detach().clone()
    export(model, tmp_path / "m.onnx", inputs)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict(keep_vars=True).items():
        assert id(value) == tensors[name][0]
        assert torch.equal(value, tensors[name][1])
    for old, parameter in zip(gradients, model.parameters(), strict=True):
        assert (old is None and parameter.grad is None) or torch.equal(old, parameter.grad)  # type: ignore[arg-type]
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert torch.equal(inputs, before)
    assert not model[9].weight.requires_grad  # type: ignore[index]


@dataclasses.dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None
    states: tuple[Tensor, ...]


class Many(nn.Module):
    """Several inputs, and outputs of every kind: a name that clashes, one tensor twice, integers, None."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc, self.logits = kind, nn.Linear(6, 4), nn.Parameter(torch.ones(4))

    def forward(self, left: Tensor, right: Tensor, shift: Tensor) -> Any:
        logits = self.fc(left * right + shift) + self.logits
        if self.kind == "dataclass":
            return Answer(logits, None, (left + 1, logits))
        if self.kind == "dict":
            return {"logits": logits, "loss": None, "classes": logits.argmax(-1), "count": 3}
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
    assert [item.name for item in onnx.load(str(tmp_path / "m.onnx")).graph.output] == names
    larger = (torch.randn(5, 6), torch.randn(5, 6), inputs[2])
    got, answer = run(tmp_path / "m.onnx", *larger), expected(model, *larger)
    logits = answer[0] if kind == "tuple" else answer["logits"] if kind == "dict" else answer.logits
    np.testing.assert_allclose(got[0], logits.numpy(), atol=1e-5)
    assert got[1].shape[0] == 5


def test_static_batch_and_opset(tmp_path: Path) -> None:
    report = export(nn.Linear(4, 2), tmp_path / "m.onnx", torch.randn(3, 4), dynamic_batch=False, opset=18)
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert report.opset == 18 == model.opset_import[0].version


def test_graph_modules_compiled_models_and_other_floats(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4)
    for variant in (fx.symbolic_trace(model), torch.compile(model), nn.DataParallel(model)):
        export(variant, tmp_path / "m.onnx", inputs)  # type: ignore[arg-type]
        np.testing.assert_allclose(run(tmp_path / "m.onnx", inputs)[0], expected(model, inputs).numpy(), atol=1e-6)
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


def test_verify_inputs_and_no_verification(conv: Exported, tmp_path: Path) -> None:
    probe = torch.randn(4, 3, 12, 12)
    assert export(conv.model, tmp_path / "a.onnx", conv.inputs, verify_inputs=probe).max_abs_difference is not None
    report = export(conv.model, tmp_path / "b.onnx", conv.inputs, verify=False)
    assert report.max_abs_difference is report.max_rel_difference is None
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == conv.path.read_bytes()


def test_report_as_json_and_table(conv: Exported) -> None:
    data = json.loads(json.dumps(conv.report.to_dict()))
    assert data["sparsity"] == conv.report.sparsity
    assert data["verdict"] == conv.report.verdict
    assert sum(row["size"] for row in data["layers"] if row["prunable"]) == conv.report.weights
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(conv.report.table())
    text = console.export_text()
    assert "0.weight" in text
    assert "coo" in text
    assert f"{conv.report.bytes_file:,}" in text


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", ["fp32-packed", "fp16", "int8"])
def test_values_encodings_and_metadata(tmp_path: Path, values: str, functions: bool) -> None:
    path = tmp_path / "m.onnx"
    about = {"method": "lrr", "recipe": "0123456789"}
    model = mlp()
    with torch.no_grad():
        for weight in (model.get_parameter("0.weight"), model.get_parameter("2.weight")):
            weight.copy_(weight.sign() * (weight.abs() + 0.01))  # few exponents, as after pruning by magnitude
    made = export(
        model, path, torch.randn(3, 5, 400), encoding="gap", values=values, functions=functions, metadata=about
    )
    (first, second) = (row for row in made.layers if row.prunable)
    assert (first.encoding, first.values, second.values) == ("gap", values, values)
    assert first.bytes_stored < {"fp32-packed": 4.2, "fp16": 2.9, "int8": 1.95}[values] * first.nonzeros
    assert first.bytes_bound < first.bytes_dense / 8
    assert (first.macs, first.macs_remaining) == (3 * 5 // 3 * 320000, 5 * 32000)
    assert made.max_rel_difference is not None
    assert made.max_rel_difference < {"fp32-packed": 1e-5, "fp16": 1e-3, "int8": 0.05}[values]
    entries = get_metadata(onnx.load(str(path)))
    assert entries.keys() == {"method", "recipe", "sparsity", "encoding", "values", "weights"}
    assert (entries["method"], entries["encoding"], entries["values"]) == ("lrr", "gap", values)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export(mlp(), tmp_path / "n.onnx", torch.randn(3, 400), values="int8", tolerance=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_the_method_of_a_rewritten_model_is_named(tmp_path: Path) -> None:
    model = sparsify_fx.apply(mlp(), method="magnitude", sparsity=0.8)
    export(model, tmp_path / "m.onnx", torch.randn(3, 400))
    entries = get_metadata(onnx.load(str(tmp_path / "m.onnx")))
    assert (entries["method"], entries["seed"]) == ("magnitude", "0")


def test_measured_speed(tmp_path: Path) -> None:
    report = export(mlp(), tmp_path / "m.onnx", torch.randn(3, 400), encoding="gap", measure=True)
    speed = report.speed
    assert speed is not None
    assert 0 < speed.load_dense < 60 and 0 < speed.load < 60  # noqa: PT018
    assert speed.latency_ratio == speed.latency / speed.latency_dense > 0
    assert speed.peak_ratio > 0
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    text = " ".join(console.export_text().split())
    assert "peak memory" in text
    assert 'Faster: target="sparse-ort" (--target sparse-ort)' in text
    assert json.loads(json.dumps(report.to_dict()))["speed"]["load_ratio"] == speed.load_ratio
    assert "10% of the multiply-adds are needed" in report.advice
