"""`target="sparse-ort"`: files with sparse operators, written, checked, run and inspected."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.cli import app
from sparsify_fx.errors import CheckpointError, ExportError
from sparsify_fx.onnx_export import inspect_file, pack_onnx
from sparsify_fx.onnx_export.files.metadata import get_metadata
from tests.runtime.sparse_files import X, net, run, run_plain

pytestmark = pytest.mark.slow


def kinds(path: Path) -> list[str]:
    return [
        node.op_type
        for node in onnx.load(str(path)).graph.node
        if node.domain == "sparsify_fx"
    ]


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
    faster = 1 / report.speed.cpu_latency_ratio
    said = (
        f"{faster:.1f}x as fast as dense in the same run"
        if faster >= 1.05
        else "not faster than dense here"
    )
    assert f"{len(report.sparse_layers)} of 6 layers skip their zeros" in report.verdict
    assert said in report.verdict
    assert "sparsify_fx.runtime.session(path)" in report.advice
    assert json.loads(json.dumps(report.to_dict()))["sparse_layers"] == list(
        report.sparse_layers
    )


def test_eight_threads_with_any_batch_on_one_session(
    dense: Path, tmp_path: Path
) -> None:
    """The bits of each answer are those of a session of one thread that runs alone."""
    pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    random = np.random.default_rng(0)
    inputs = [
        random.standard_normal((batch, 3, 20, 20), np.float32)
        for batch in (1, 2, 3, 5, 8, 1)
    ]
    alone = runtime.session(tmp_path / "sparse.onnx", threads=1)
    name = alone.get_inputs()[0].name
    expected = [alone.run(None, {name: x})[0] for x in inputs]
    shared = runtime.session(tmp_path / "sparse.onnx", threads=2)
    places = [place % len(inputs) for place in range(96)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda place: shared.run(None, {name: inputs[place]})[0], places)
        )
    for place, answer in zip(places, answers, strict=True):
        np.testing.assert_array_equal(answer, expected[place])


def test_two_exports_are_identical_and_say_how_layers_were_chosen(
    tmp_path: Path,
) -> None:
    for name in "ab":
        sparsify_fx.export(net(), tmp_path / f"{name}.onnx", X, target="sparse-ort")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    found = get_metadata(onnx.load(str(tmp_path / "a.onnx")))
    choice = json.loads(found["choice"])
    assert (found["target"], choice["by"], choice["batch"], choice["threads"]) == (
        "sparse-ort",
        "estimate",
        2,
        1,
    )
    assert choice["layers"]["left.weight"]["sparse"] is True
    for times in choice["layers"].values():
        assert times["dense_ns"] > 0 < times["sparse_ns"]


def test_autotune_measures_and_writes_down_what_it_found(
    dense: Path, tmp_path: Path
) -> None:
    report = pack_onnx(
        dense, tmp_path / "tuned.onnx", target="sparse-ort", autotune=True
    )
    choice = inspect_file(tmp_path / "tuned.onnx").choice
    assert choice is not None
    assert choice["by"] == "measurement"
    assert choice["instructions"] == runtime.instruction_set()
    assert choice["onnxruntime"] == onnxruntime.__version__
    for name, times in choice["layers"].items():
        assert times["dense_ns"] > 1000 < times["sparse_ns"]
        assert times["sparse"] == (name in report.sparse_layers)


# By a clock: other tests at the same time would decide it.
@pytest.mark.sweep
def test_autotune_takes_the_layers_that_are_faster(dense: Path, tmp_path: Path) -> None:
    path = tmp_path / "tuned.onnx"
    pack_onnx(dense, path, target="sparse-ort", autotune=True)
    choice = inspect_file(path).choice
    assert choice is not None
    for times in choice["layers"].values():
        # Between these, copies into and out of onnxruntime's own order of values decide.
        if not 0.6 < times["sparse_ns"] / times["dense_ns"] < 1.2:
            assert times["sparse"] == (times["sparse_ns"] < times["dense_ns"])


def test_inspect_shows_layers_multiply_adds_and_speed(
    dense: Path, tmp_path: Path
) -> None:
    report = pack_onnx(dense, tmp_path / "sparse.onnx", target="sparse-ort")
    found = inspect_file(tmp_path / "sparse.onnx", measure=True)
    before = inspect_file(dense)
    assert set(found.sparse_layers) == set(report.sparse_layers)
    assert (found.nonzeros, found.weights) == (before.nonzeros, before.weights)
    assert found.macs == before.macs is not None
    for row in found.layers:
        if row.encoding == "sparse-ort":
            packed = next(each for each in report.layers if each.name == row.name)
            assert (row.bytes_stored, row.nonzeros, row.shape) == (
                packed.bytes_stored,
                packed.nonzeros,
                packed.shape,
            )
    assert found.speed is not None
    assert found.speed.latency_ratio > 0
    caption = str(found.table().caption)
    assert (
        "layers are sparse operators, chosen by estimate for x [1, 3, 20, 20] (made up)"
        in caption
    )
    assert "register" in caption
    assert inspect_file(dense).table().caption is None
    torch.save({"w": torch.eye(3)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is no ONNX file"):
        inspect_file(tmp_path / "w.pt", measure=True)


def test_a_model_without_zeros_stays_plain(tmp_path: Path) -> None:
    report = sparsify_fx.export(
        net(0.0), tmp_path / "full.onnx", X, target="sparse-ort"
    )
    assert report.sparse_layers == ()
    assert (
        "0 of 6 layers skip their zeros, the others would not be faster"
        in report.verdict
    )
    assert "any onnxruntime runs it" in report.advice
    np.testing.assert_allclose(
        run_plain(tmp_path / "full.onnx"), run(tmp_path / "full.onnx"), atol=0
    )


def test_options_that_contradict_each_other_write_nothing(
    dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ExportError, match="autotune chooses layers for the sparse operators"
    ):
        pack_onnx(dense, tmp_path / "a.onnx", autotune=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.sweep
def test_commands(dense: Path, tmp_path: Path) -> None:
    def call(*arguments: str | Path) -> Any:
        done = CliRunner(env={"COLUMNS": "160"}).invoke(
            app, [*map(str, arguments), "--json", "-"]
        )
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    packed = call(
        "pack",
        dense,
        tmp_path / "sparse.onnx",
        "--target",
        "sparse-ort",
        "--autotune",
        "--measure",
    )
    assert packed["target"] == "sparse-ort"
    assert packed["speed"]["latency_ratio"] > 0
    found = call("inspect", tmp_path / "sparse.onnx", "--measure")
    assert found["choice"]["by"] == "measurement"
    assert set(found["sparse_layers"]) == set(packed["sparse_layers"])
    assert found["speed"]["peak_ratio"] > 0
    call("unpack", tmp_path / "sparse.onnx", tmp_path / "back.onnx")
    assert run_plain(tmp_path / "back.onnx").tobytes() == run_plain(dense).tobytes()
    refused = CliRunner().invoke(
        app, ["pack", str(dense), str(tmp_path / "no.onnx"), "--autotune"]
    )
    assert refused.exit_code == 2
    assert "--target sparse-ort" in refused.stderr
