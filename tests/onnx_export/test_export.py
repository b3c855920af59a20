"""`export`: real torch.onnx, real onnxruntime, and nothing left behind when it fails."""

import io
import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import export
from sparsify_fx.onnx_export.files.metadata import get_metadata
from tests.onnx_export.models import Exported, conv_net, expected, mlp, run, stored


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, inputs, path = (
        conv_net(),
        torch.randn(1, 3, 12, 12),
        tmp_path_factory.mktemp("conv") / "conv.onnx",
    )
    return Exported(model, inputs, path, export(model, path, inputs))


@pytest.fixture(scope="module")
def dense_layers(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, inputs, path = (
        mlp(),
        torch.randn(3, 5, 400),
        tmp_path_factory.mktemp("mlp") / "mlp.onnx",
    )
    return Exported(model, inputs, path, export(model, path, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_runs_and_agrees(
    conv: Exported, dense_layers: Exported, batch: int
) -> None:
    for case in (conv, dense_layers):
        inputs = torch.randn(batch, *case.inputs.shape[1:])
        (got,) = run(case.path, inputs)
        np.testing.assert_allclose(
            got, expected(case.model, inputs).numpy(), atol=1e-5, rtol=0
        )


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


def test_large_layers_shrink_more_than_five_times(
    dense_layers: Exported, tmp_path: Path
) -> None:
    report = dense_layers.report
    assert report.ratio > 5
    assert (
        report.verdict
        == f"stock onnxruntime gains no speed from zeros; the file is {report.ratio:.1f}x smaller"
    )
    plain = export(
        dense_layers.model,
        tmp_path / "dense.onnx",
        dense_layers.inputs,
        encoding="dense",
    )
    assert (
        plain.bytes_file
        == plain.bytes_dense
        == report.bytes_dense
        == (tmp_path / "dense.onnx").stat().st_size
    )
    assert "not smaller" in plain.verdict


def test_weights_are_stored_bit_for_bit_under_their_names(
    conv: Exported, dense_layers: Exported
) -> None:
    (transposed,) = (
        array
        for name, array in stored(dense_layers.path).items()
        if name == "0.weight.T"
    )
    weight = dense_layers.model.get_parameter("0.weight").detach()
    assert np.array_equal(transposed, weight.T.numpy())
    head = conv.model.get_parameter("9.weight").detach()
    assert np.array_equal(stored(conv.path)["9.weight"], head.numpy())
    names = {row.name: row for row in conv.report.layers}
    assert {"0.weight", "3.weight", "9.weight"} <= names.keys()
    assert all(
        names[name].prunable and names[name].encoding == "coo"
        for name in ("0.weight", "3.weight", "9.weight")
    )
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


def test_two_exports_are_identical_and_replace_the_old_file(
    conv: Exported, tmp_path: Path
) -> None:
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
    tensors = {
        name: (id(value), value.clone())
        for name, value in model.state_dict(keep_vars=True).items()
    }
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    states = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )  # type: ignore[index]
    inputs = torch.randn(
        2, 3, 12, 12, generator=torch.Generator().manual_seed(3), requires_grad=True
    )
    before = inputs.detach().clone()
    export(model, tmp_path / "m.onnx", inputs)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict(keep_vars=True).items():
        assert id(value) == tensors[name][0]
        assert torch.equal(value, tensors[name][1])
    for old, parameter in zip(gradients, model.parameters(), strict=True):
        assert (old is None and parameter.grad is None) or torch.equal(
            old, parameter.grad
        )  # type: ignore[arg-type]
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert torch.equal(inputs, before)
    assert not model[9].weight.requires_grad  # type: ignore[index]


def test_verify_inputs_and_no_verification(conv: Exported, tmp_path: Path) -> None:
    probe = torch.randn(4, 3, 12, 12)
    assert (
        export(
            conv.model, tmp_path / "a.onnx", conv.inputs, verify_inputs=probe
        ).max_abs_difference
        is not None
    )
    report = export(conv.model, tmp_path / "b.onnx", conv.inputs, verify=False)
    assert report.max_abs_difference is report.max_rel_difference is None
    assert (
        (tmp_path / "a.onnx").read_bytes()
        == (tmp_path / "b.onnx").read_bytes()
        == conv.path.read_bytes()
    )


def test_report_as_json_and_table(conv: Exported) -> None:
    data = json.loads(json.dumps(conv.report.to_dict()))
    assert data["sparsity"] == conv.report.sparsity
    assert data["verdict"] == conv.report.verdict
    assert (
        sum(row["size"] for row in data["layers"] if row["prunable"])
        == conv.report.weights
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(conv.report.table())
    text = console.export_text()
    assert "0.weight" in text
    assert "coo" in text
    assert f"{conv.report.bytes_file:,}" in text


@pytest.mark.cross_section("int8-True", "fp32-packed-False", "fp16-True")
@pytest.mark.parametrize(
    "functions", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "values", ["fp32-packed", pytest.param("fp16", marks=pytest.mark.slow), "int8"]
)
def test_values_encodings_and_metadata(
    tmp_path: Path, values: str, functions: bool
) -> None:
    path = tmp_path / "m.onnx"
    about = {"method": "lrr", "recipe": "0123456789"}
    model = mlp()
    with torch.no_grad():
        for weight in (
            model.get_parameter("0.weight"),
            model.get_parameter("2.weight"),
        ):
            weight.copy_(
                weight.sign() * (weight.abs() + 0.01)
            )  # few exponents, as after pruning by magnitude
    made = export(
        model,
        path,
        torch.randn(3, 5, 400),
        encoding="gap",
        values=values,
        functions=functions,
        metadata=about,
    )
    (first, second) = (row for row in made.layers if row.prunable)
    assert (first.encoding, first.values, second.values) == ("gap", values, values)
    assert (
        first.bytes_stored
        < {"fp32-packed": 4.2, "fp16": 2.9, "int8": 1.95}[values] * first.nonzeros
    )
    assert first.bytes_bound < first.bytes_dense / 8
    assert (first.macs, first.macs_remaining) == (3 * 5 // 3 * 320000, 5 * 32000)
    assert made.max_rel_difference is not None
    assert (
        made.max_rel_difference
        < {"fp32-packed": 1e-5, "fp16": 1e-3, "int8": 0.05}[values]
    )
    entries = get_metadata(onnx.load(str(path)))
    assert entries.keys() == {
        "method",
        "recipe",
        "sparsity",
        "encoding",
        "values",
        "weights",
    }
    assert (entries["method"], entries["encoding"], entries["values"]) == (
        "lrr",
        "gap",
        values,
    )
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export(
            mlp(),
            tmp_path / "n.onnx",
            torch.randn(3, 400),
            values="int8",
            tolerance=1e-6,
        )
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
def test_measured_speed(tmp_path: Path) -> None:
    report = export(
        mlp(), tmp_path / "m.onnx", torch.randn(3, 400), encoding="gap", measure=True
    )
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
    assert (
        json.loads(json.dumps(report.to_dict()))["speed"]["load_ratio"]
        == speed.load_ratio
    )
    assert "10% of the multiply-adds are needed" in report.advice
