"""`target="sparse-ort"`: files with sparse operators, written, checked, inspected, and made plain again."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.cli import app
from sparsify_fx.errors import CheckpointError, ExportError, RuntimeLibraryError
from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.metadata import get_metadata
from sparsify_fx.onnx_export.verify import Runtime
from sparsify_fx.passes.onnx_graph import outside

X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Convolutions with a residual, a linear layer, one without zeros, and one of a kind without sparse kernels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.ConvTranspose2d(3, 3, 5, padding=2)
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.left = nn.Conv2d(64, 96, 3, padding=1)
        self.right = nn.Conv2d(64, 96, 1, bias=False)
        self.tokens = nn.Linear(96, 300)
        self.head = nn.Linear(300, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(self.mix(x)))
        x = nn.functional.relu6(self.left(x) + self.right(x))
        x = nn.functional.gelu(self.tokens(x.flatten(2).transpose(1, 2)))
        return self.head(x.mean(1))


def net(sparsity: float = 0.95) -> nn.Module:
    """`Net` with so many zeros in all layers but the last."""
    model = Net().eval()
    generator = torch.Generator().manual_seed(1)
    for layer in (model.mix, model.stem, model.left, model.right, model.tokens):
        kept = torch.rand(layer.weight.shape, generator=generator) >= sparsity
        layer.weight.data = torch.where(kept, layer.weight.data, 0.0)
    return model


def run(path: Path, x: torch.Tensor = X) -> Any:
    session = runtime.session(path, threads=1)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def run_plain(path: Path, x: torch.Tensor = X) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def weights(path: Path) -> dict[str, bytes]:
    """Every tensor but the scalars: limits of a Clip get other names on the way."""
    tensors = onnx.load(str(path)).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in tensors if tensor.dims}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    sparsify_fx.export(net(), path, X, encoding="dense", optimize=False)
    return path


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node if node.domain == "sparsify_fx"]


def test_export_writes_sparse_operators_that_agree_with_pytorch(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "net.onnx"
    report = sparsify_fx.export(model, path, X, target="sparse-ort", measure=True)
    assert report.target == "sparse-ort"
    assert {"left.weight", "tokens.weight.T"} <= set(report.sparse_layers)
    assert kinds(path).count("SparseMatMul") == 1
    assert report.ratio > 8
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-5
    with torch.no_grad():
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 20, 20)
            np.testing.assert_allclose(run(path, x), model(x).numpy(), atol=1e-5)
    assert report.speed is not None
    faster = 1 / report.speed.latency_ratio
    said = f"{faster:.1f}x as fast as dense in the same run" if faster >= 1.05 else "not faster than dense here"
    assert f"{len(report.sparse_layers)} of 6 layers skip their zeros" in report.verdict
    assert said in report.verdict
    assert "sparsify_fx.runtime.session(path)" in report.advice
    assert json.loads(json.dumps(report.to_dict()))["sparse_layers"] == list(report.sparse_layers)


def test_eight_threads_with_any_batch_on_one_session(dense: Path, tmp_path: Path) -> None:
    """The bits of each answer are those of a session of one thread that runs alone."""
    pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((batch, 3, 20, 20), np.float32) for batch in (1, 2, 3, 5, 8, 1)]
    alone = runtime.session(tmp_path / "sparse.onnx", threads=1)
    name = alone.get_inputs()[0].name
    expected = [alone.run(None, {name: x})[0] for x in inputs]
    shared = runtime.session(tmp_path / "sparse.onnx", threads=2)
    places = [place % len(inputs) for place in range(96)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda place: shared.run(None, {name: inputs[place]})[0], places))
    for place, answer in zip(places, answers, strict=True):
        np.testing.assert_array_equal(answer, expected[place])


def test_two_exports_are_identical_and_say_how_layers_were_chosen(tmp_path: Path) -> None:
    for name in "ab":
        sparsify_fx.export(net(), tmp_path / f"{name}.onnx", X, target="sparse-ort")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    found = get_metadata(onnx.load(str(tmp_path / "a.onnx")))
    choice = json.loads(found["choice"])
    assert (found["target"], choice["by"], choice["batch"], choice["threads"]) == ("sparse-ort", "estimate", 2, 1)
    assert choice["layers"]["left.weight"]["sparse"] is True
    for times in choice["layers"].values():
        assert times["dense_ns"] > 0 < times["sparse_ns"]


def test_pack_and_unpack_give_every_bit_and_every_output_back(dense: Path, tmp_path: Path) -> None:
    report = pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    assert {"left.weight", "right.weight"} <= set(report.sparse_layers)
    assert report.max_rel_difference is not None
    assert report.max_rel_difference < 1e-5
    unpack_onnx(tmp_path / "sparse.onnx", tmp_path / "back.onnx")
    assert weights(dense) == weights(tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    again = onnx.load(str(tmp_path / "back.onnx"))
    assert not any(node.domain for node in again.graph.node)
    assert {entry.domain for entry in again.opset_import} == {""}
    assert get_metadata(again).keys() == {"sparsity"}
    plain = pack_onnx(tmp_path / "sparse.onnx", tmp_path / "coo.onnx", encoding="coo")  # from one form to another
    assert (plain.target, plain.sparse_layers, plain.nonzeros) == ("onnx", (), report.nonzeros)
    pack_onnx(tmp_path / "coo.onnx", tmp_path / "sparse2.onnx", target="sparse-ort")
    np.testing.assert_array_equal(run(tmp_path / "sparse2.onnx"), run(tmp_path / "sparse.onnx"))


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", ["fp32", "fp32-packed"])
def test_layers_that_stay_dense_are_encoded(dense: Path, tmp_path: Path, values: str, functions: bool) -> None:
    path = tmp_path / "mixed.onnx"
    report = pack_onnx(dense, path, target="sparse-ort", encoding="gap", values=values, functions=functions)
    stored = {row.name: row.encoding for row in report.layers}
    assert (stored["mix.weight"], stored["left.weight"], stored["head.weight"]) == ("gap", "sparse-ort", "dense")
    assert set(inspect_file(path).sparse_layers) == set(report.sparse_layers)
    unpack_onnx(path, tmp_path / "back.onnx")
    assert weights(dense) == weights(tmp_path / "back.onnx")
    np.testing.assert_allclose(run(path), run_plain(dense), atol=1e-5)


def test_autotune_measures_and_writes_down_what_it_found(dense: Path, tmp_path: Path) -> None:
    report = pack_onnx(dense, tmp_path / "tuned.onnx", target="sparse-ort", autotune=True)
    choice = inspect_file(tmp_path / "tuned.onnx").choice
    assert choice is not None
    assert choice["by"] == "measurement"
    assert choice["instructions"] == runtime.instruction_set()
    assert choice["onnxruntime"] == onnxruntime.__version__
    for name, times in choice["layers"].items():
        assert times["dense_ns"] > 1000 < times["sparse_ns"]
        assert times["sparse"] == (name in report.sparse_layers) == (times["sparse_ns"] < 0.9 * times["dense_ns"])


def test_inspect_shows_layers_multiply_adds_and_speed(dense: Path, tmp_path: Path) -> None:
    report = pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    found = inspect_file(tmp_path / "sparse.onnx", measure=True)
    before = inspect_file(dense)
    assert set(found.sparse_layers) == set(report.sparse_layers)
    assert (found.nonzeros, found.weights) == (before.nonzeros, before.weights)
    assert found.macs == before.macs is not None
    for row in found.layers:
        if row.encoding == "sparse-ort":
            packed = next(each for each in report.layers if each.name == row.name)
            assert (row.bytes_stored, row.nonzeros, row.shape) == (packed.bytes_stored, packed.nonzeros, packed.shape)
    assert found.speed is not None
    assert found.speed.latency_ratio > 0
    caption = str(found.table().caption)
    assert "layers are sparse operators, chosen by estimate for batch 1" in caption
    assert "register" in caption
    assert inspect_file(dense).table().caption is None
    torch.save({"w": torch.eye(3)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is no ONNX file"):
        inspect_file(tmp_path / "w.pt", measure=True)


def test_without_the_library_onnxruntime_refuses_and_we_say_what_to_do(dense: Path, tmp_path: Path) -> None:
    pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    with pytest.raises(Exception, match="sparsify_fx:Sparse"):  # onnxruntime's own words
        run_plain(tmp_path / "sparse.onnx")
    with pytest.raises(ExportError, match=r"register sparsify_fx.runtime.library\(\).*sparsify-fx unpack"):
        Runtime(tmp_path / "sparse.onnx")


def test_an_installation_without_the_library(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes no such file, but inspects and unpacks those of others."""
    source = tmp_path / "sparse.onnx"
    pack_onnx(dense, source, target="sparse-ort")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sys.modules["sparsify_fx.runtime.library"], "_folders", lambda: iter([empty]))
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        sparsify_fx.export(net(), empty / "a.onnx", X, target="sparse-ort")
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        pack_onnx(dense, empty / "a.onnx", target="sparse-ort")
    with pytest.raises(RuntimeLibraryError, match=r"C\+\+17 compiler"):
        inspect_file(source, measure=True)
    assert not list(empty.iterdir())
    assert {"left.weight", "right.weight"} <= set(inspect_file(source).sparse_layers)
    unpack_onnx(source, tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    report = pack_onnx(source, tmp_path / "gap.onnx")
    assert report.max_abs_difference is None
    assert "outputs were not compared" in report.notes[0]


def test_a_model_without_zeros_stays_plain(tmp_path: Path) -> None:
    report = sparsify_fx.export(net(0.0), tmp_path / "full.onnx", X, target="sparse-ort")
    assert report.sparse_layers == ()
    assert "0 of 6 layers skip their zeros, the others would not be faster" in report.verdict
    assert "any onnxruntime runs it" in report.advice
    np.testing.assert_allclose(run_plain(tmp_path / "full.onnx"), run(tmp_path / "full.onnx"), atol=0)


def test_options_that_contradict_each_other_write_nothing(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="autotune chooses layers for the sparse operators"):
        pack_onnx(dense, tmp_path / "a.onnx", autotune=True)
    with pytest.raises(ExportError, match="the sparse operators hold float32"):
        sparsify_fx.export(net(), tmp_path / "a.onnx", X, target="sparse-ort", values="int8")
    assert not list(tmp_path.iterdir())


def one_layer(weight: np.ndarray) -> onnx.ModelProto:
    """x @ weight, for 64 rows."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, weight.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, weight.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    graph = helper.make_graph([node], "one", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_negative_zeros_keep_their_sign_unless_told_otherwise(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((400, 400), np.float32)
    weight *= np.random.default_rng(1).random(weight.shape) < 0.05
    onnx.save(one_layer(weight), tmp_path / "a.onnx")
    kept = pack_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", target="sparse-ort")
    unpack_onnx(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert weights(tmp_path / "c.onnx")["w"] == weight.tobytes()
    assert "weights are -0.0" in kept.notes[0]
    small = pack_onnx(tmp_path / "a.onnx", tmp_path / "d.onnx", target="sparse-ort", normalize_zeros=True)
    assert small.bytes_file < 0.15 * kept.bytes_file
    x = torch.randn(64, 400)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x), run(tmp_path / "d.onnx", x))


def test_damaged_gap_codes_are_errors(tmp_path: Path) -> None:
    weight = np.zeros((400, 400), np.float32)
    weight[::7, ::11] = 1.0
    onnx.save(one_layer(weight), tmp_path / "a.onnx")
    pack_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", target="sparse-ort")
    model = onnx.load(str(tmp_path / "b.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "w.gaps":
            gaps = numpy_helper.to_array(tensor).copy()
            gaps[:] = 255
            tensor.CopyFrom(numpy_helper.from_array(gaps, tensor.name))
    onnx.save(model, tmp_path / "b.onnx")
    for work in (inspect_file, lambda file: unpack_onnx(file, tmp_path / "c.onnx")):
        with pytest.raises(ExportError, match="w: its gap codes are damaged"):
            work(tmp_path / "b.onnx")
    with pytest.raises(Exception, match="beyond the end of weight_shape"):
        run(tmp_path / "b.onnx")
    assert not (tmp_path / "c.onnx").exists()


def test_external_data_goes_in_and_comes_out(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.onnx"
    model = onnx.load(str(dense))
    onnx.save(model, source, save_as_external_data=True, location="source.bin", size_threshold=0)
    report = pack_onnx(source, tmp_path / "sparse.onnx", target="sparse-ort")
    assert {"left.weight", "right.weight"} <= set(report.sparse_layers)
    monkeypatch.setattr(outside, "MAX_BYTES", 10_000)
    pack_onnx(source, tmp_path / "large.onnx", target="sparse-ort")
    assert (tmp_path / "large.onnx.data").stat().st_size > 10_000
    np.testing.assert_array_equal(run(tmp_path / "large.onnx"), run(tmp_path / "sparse.onnx"))
    assert set(inspect_file(tmp_path / "large.onnx").sparse_layers) == set(report.sparse_layers)
    unpack_onnx(tmp_path / "large.onnx", tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()


def test_commands(dense: Path, tmp_path: Path) -> None:
    def call(*arguments: str | Path) -> Any:
        done = CliRunner(env={"COLUMNS": "160"}).invoke(app, [*map(str, arguments), "--json", "-"])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    packed = call("pack", dense, tmp_path / "sparse.onnx", "--target", "sparse-ort", "--autotune", "--measure")
    assert packed["target"] == "sparse-ort"
    assert packed["speed"]["latency_ratio"] > 0
    found = call("inspect", tmp_path / "sparse.onnx", "--measure")
    assert found["choice"]["by"] == "measurement"
    assert set(found["sparse_layers"]) == set(packed["sparse_layers"])
    assert found["speed"]["peak_ratio"] > 0
    call("unpack", tmp_path / "sparse.onnx", tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    refused = CliRunner().invoke(app, ["pack", str(dense), str(tmp_path / "no.onnx"), "--autotune"])
    assert refused.exit_code == 2
    assert "--target sparse-ort" in refused.stderr
