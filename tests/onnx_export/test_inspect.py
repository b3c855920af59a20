"""`inspect_file`: ONNX files and checkpoints, whole and damaged."""

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.errors import CheckpointError, ConfigError, ExportError
from sparsify_fx.onnx_export import LayerRow, export, inspect_file
from sparsify_fx.onnx_export.report.picture import draw_density
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES
from sparsify_fx.programs.owners import programs
from tests.common import crossed


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 40)
    )
    with torch.no_grad():
        for weight in (
            model.get_parameter("0.weight"),
            model.get_parameter("3.weight"),
        ):
            weight.view(-1)[::4] = 0  # a quarter of the weights
            weight.view(-1)[1::4] = 0
    return model


def foreign() -> onnx.ModelProto:
    """A file by another writer: raw coordinates, a constant node, a branch with its own tensors, float16."""
    sparse = onnx.SparseTensorProto(dims=[4, 5])
    sparse.values.CopyFrom(numpy_helper.from_array(f32([1, 2]), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([[0, 1], [3, 4]])))
    constant = helper.make_node(
        "Constant",
        [],
        ["k"],
        value=numpy_helper.from_array(np.eye(5, dtype=np.float32)),
    )
    inner_weight = numpy_helper.from_array(np.zeros((5, 2), np.float32), "inner")
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["b", "inner"], ["z"])],
        "then",
        [],
        [out],
        [inner_weight],
    )
    nodes = [
        constant,
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "k"], ["b"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    ends = [
        helper.make_tensor_value_info(n, t, None)
        for n, t in (("x", 1), ("flag", 9), ("y", 1))
    ]
    other = numpy_helper.from_array(np.ones((2, 2), np.float16), "unused")
    graph = helper.make_graph(
        nodes, "g", ends[:2], ends[2:], [other], sparse_initializer=[sparse]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def rows(path: Path) -> dict[str, LayerRow]:
    return {row.name: row for row in inspect_file(path).layers}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "m.onnx"
    export(network(), path, torch.randn(1, 3, 8, 8), encoding="coo")
    return path


def test_our_onnx_file_gives_what_export_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    made = export(network(), path, torch.randn(1, 3, 8, 8), encoding="coo")
    seen = inspect_file(path)
    assert (seen.kind, seen.bytes_file) == ("onnx", made.bytes_file)
    assert (
        (seen.sparsity, seen.nonzeros, seen.weights)
        == (made.sparsity, made.nonzeros, made.weights)
        == (
            0.5,
            5868,
            11736,
        )
    )
    assert set(seen.layers) == set(made.layers)


def test_foreign_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"  # found by content
    onnx.save_model(foreign(), str(path))
    found = rows(path)
    assert (
        found["w"].shape,
        found["w"].nonzeros,
        found["w"].encoding,
        found["w"].prunable,
    ) == ((4, 5), 2, "coo", True)
    assert (found["k"].size, found["k"].nonzeros, found["k"].prunable) == (25, 5, True)
    assert (found["inner"].density, found["inner"].prunable) == (0.0, True)
    assert (found["unused"].dtype, found["unused"].prunable) == ("float16", False)


def test_external_data_is_read_and_missed(tmp_path: Path) -> None:
    model = foreign()
    model.graph.initializer.append(
        numpy_helper.from_array(np.eye(64, dtype=np.float32), "big")
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location="m.data",
        size_threshold=1000,
    )
    assert (tmp_path / "m.data").exists()
    assert (rows(path)["big"].nonzeros, rows(path)["big"].bytes_dense > 16384) == (
        64,
        True,
    )
    (tmp_path / "m.data").write_bytes(b"short")
    with pytest.raises(ExportError, match=r"m\.onnx"):
        inspect_file(path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ExportError, match="external data cannot be read"):
        inspect_file(path)


@pytest.mark.parametrize("wrap", [None, "model", "state_dict", "something"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_checkpoints(tmp_path: Path, wrap: str | None, legacy: bool) -> None:
    state: Any = network().state_dict()
    whole = (
        {"epoch": 3, "rng": torch.get_rng_state(), wrap: state}
        if wrap in ("model", "state_dict")
        else None
    )
    content = whole or (
        {"epoch": 3, wrap: state, "best": {"x": torch.ones(2)}} if wrap else state
    )
    path = tmp_path / "run.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    report = inspect_file(path)
    assert (report.kind, report.weights, report.sparsity, report.zeros) == (
        "torch",
        11736,
        0.5,
        5868,
    )
    prefix, more = ("something.", ["best.x"]) if wrap == "something" else ("", [])
    assert [row.name for row in report.layers] == [
        f"{prefix}{name}" for name in state
    ] + more
    assert report.bytes_file == path.stat().st_size
    first = report.layers[0]
    assert (first.shape, first.dtype, first.bytes_dense, first.prunable) == (
        (8, 3, 3, 3),
        "float32",
        864,
        True,
    )


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(network().state_dict(), path)
    assert (inspect_file(path).kind, inspect_file(path).sparsity) == (
        "safetensors",
        0.5,
    )


def test_rewritten_model_shows_effective_weights(tmp_path: Path) -> None:
    mask = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    state = {
        "embedding": torch.ones(5, 2),
        "a.weight_program.dense": torch.full((2, 2), 2.0),
        "a.weight_program.mask": mask,
        "a.bias": torch.zeros(2),
        "b.weight_program.m": torch.ones(2, 2),
        "b.weight_program.w": torch.tensor([[0.0, 3.0], [1.0, 1.0]]),
        "b.weight_program.mask": mask,
        "c.in_proj_weight_program.dense": torch.ones(2, 2),
    }
    torch.save({"model": state}, tmp_path / "m.pt")
    report = inspect_file(tmp_path / "m.pt")
    found = {row.name: row for row in report.layers}
    assert list(found) == [
        "embedding",
        "a.weight",
        "a.bias",
        "b.weight",
        "c.in_proj_weight",
    ]
    assert [
        found[name].nonzeros for name in ("a.weight", "b.weight", "c.in_proj_weight")
    ] == [2, 1, 4]
    assert (found["b.weight"].bytes_dense, found["b.weight"].bytes_stored) == (16, 36)
    assert (report.weights, report.nonzeros) == (12, 7)
    torch.save({"a.weight_program.psi": torch.ones(2)}, tmp_path / "m.pt")
    with pytest.raises(
        CheckpointError,
        match=r"a\.weight: no weight can be made of its program of \['psi'\]: no parameterization has these",
    ):
        inspect_file(tmp_path / "m.pt")


def test_report_as_json_and_table(exported: Path) -> None:
    report = inspect_file(exported)
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["sparsity"], data["zeros"], data["kind"]) == (0.5, 5868, "onnx")
    assert data["layers"][0].keys() >= {
        "name",
        "shape",
        "density",
        "zeros",
        "bytes_stored",
    }
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    assert "0.5000" in console.export_text()


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99, 0.9999])
def test_truncated_onnx(tmp_path: Path, exported: Path, part: float) -> None:
    data = exported.read_bytes()
    with pytest.raises(ExportError, match="truncated"):
        inspect_file(write(tmp_path, "m.onnx", data[: int(len(data) * part)]))


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_checkpoints(tmp_path: Path, part: float) -> None:
    torch.save(network().state_dict(), tmp_path / "m.pt")
    save_file(network().state_dict(), tmp_path / "m.safetensors")
    for name in ("m.pt", "m.safetensors"):
        data = (tmp_path / name).read_bytes()
        with pytest.raises(CheckpointError, match=r"is not a whole|is damaged"):
            inspect_file(write(tmp_path, name, data[: int(len(data) * part)]))


class Evil:
    """Runs code when unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"model": Evil(trap)}, tmp_path / "m.pt")
    (tmp_path / "n.pt").write_bytes(pickle.dumps(Evil(trap)))
    torch.save(network(), tmp_path / "o.pt")
    for name in ("m.pt", "n.pt", "o.pt"):
        with pytest.raises(CheckpointError, match="Python objects"):
            inspect_file(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.onnx", b"", "is empty"),
        ("b.onnx", b"\x00garbage" * 9, "not a whole ONNX file"),
        ("c.onnx", b"\x08\x08", "holds no ONNX model"),
        ("d.pt", b"\x01garbage" * 9, "not a whole|is damaged"),
        ("e.safetensors", b"\x01garbage" * 9, "not a whole safetensors"),
        ("f.txt", b"hello", "neither ONNX nor safetensors"),
        ("g", b"", "is empty"),
    ],
)
def test_damaged_and_unknown_files(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    kind = ExportError if name.endswith("onnx") else CheckpointError
    with pytest.raises(kind, match=message):
        inspect_file(write(tmp_path, name, data))


def test_missing_files_folders_and_files_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        inspect_file(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect_file(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        inspect_file(tmp_path)
    for content in ({"epoch": 3}, [torch.ones(2)], 3):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="holds no state dict"):
            inspect_file(tmp_path / "m.pt")


@pytest.mark.parametrize("kind", [".png", ".svg"])
def test_picture(exported: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"density{kind}"
    draw_density(inspect_file(exported), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if kind == ".png" else b"<?xml")
    if kind == ".svg":
        assert b"0.weight" in data
    draw_density(inspect_file(exported), path)
    assert path.read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_picture_by_command_and_bad_targets(exported: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["inspect", str(exported), "--picture", str(tmp_path / "p.svg")]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "p.svg").stat().st_size > 1000
    report = inspect_file(exported)
    with pytest.raises(ConfigError, match=r"a picture is \.png or \.svg"):
        draw_density(report, tmp_path / "p.pdf")
    with pytest.raises(ExportError, match="does not exist; create it first"):
        draw_density(report, tmp_path / "none" / "p.png")
    with pytest.raises(ExportError, match="no prunable weights"):
        draw_density(dataclasses.replace(report, layers=()), tmp_path / "q.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "values"), crossed(list(ENCODINGS), list(VALUES), len(VALUES))
)
def test_every_encoding_is_shown_as_export_reported_it(
    tmp_path: Path, encoding: str, values: str
) -> None:
    path, inputs = tmp_path / "m.onnx", torch.randn(1, 3, 8, 8)
    made = export(network(), path, inputs, encoding=encoding, values=values)
    seen = inspect_file(path)
    assert set(seen.layers) == set(made.layers)
    assert sum(row.macs or 0 for row in seen.layers) == 8 * 27 * 36 + 11520
    assert (seen.sparsity, seen.bytes_file) == (made.sparsity, made.bytes_file)


@pytest.mark.parametrize(
    ("method", "axes"),
    [
        (
            "str",
            {
                "parameterization": {
                    "name": "soft-threshold",
                    "start": -1.0,
                    "gate": "exp",
                }
            },
        ),
        (
            "str",
            {
                "parameterization": {
                    "name": "soft-threshold",
                    "start": -0.5,
                    "per": "channel",
                }
            },
        ),
        ("cs", {}),
        ("l0", {"parameterization": {"name": "l0", "start": -0.5, "scale": 4.0}}),
        ("powerprop", {}),
        ("lrr+signin", {}),
        ("spred", {}),
    ],
)
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_checkpoints_of_every_parameterization_count_the_effective_weight(
    method: str, axes: dict[str, Any], form: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))
    sparsify_fx.apply(model, method, sparsity=0.5, **axes)
    for program in programs(model).values():  # as in the midst of a training
        for factor in program.factor_tensors().values():
            factor.data.add_(torch.randn_like(factor))
    path = tmp_path / f"state.{form}"
    save = save_file if form == "safetensors" else torch.save
    save(model.state_dict(), path)
    expected = sum(
        int(program.effective().count_nonzero()) for program in programs(model).values()
    )
    report = inspect_file(path)
    assert (report.nonzeros, report.weights) == (expected, 340)
    if "parameterization" not in axes:  # version 0.1 told no options
        state = {
            key: value
            for key, value in model.state_dict().items()
            if not key.endswith("_extra_state")
        }
        save(state, path)
        assert inspect_file(path).nonzeros == expected
