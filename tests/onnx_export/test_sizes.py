"""For which sizes layers are chosen and measured: those given, or those of a run on made-up inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from sparsify_fx.cli import app
from sparsify_fx.errors import ExportError, UnknownNameError
from sparsify_fx.onnx_export import inspect_file, pack_onnx
from sparsify_fx.onnx_export.checks.run_shapes import shapes_of_run
from sparsify_fx.onnx_export.files.metadata import CHOICE, get_metadata
from sparsify_fx.onnx_export.files.tensors import TensorReader
from tests.onnx_export.arrays import random_tensor, save

value, FLOAT = helper.make_tensor_value_info, TensorProto.FLOAT


def conv_net(dims: list[Any], height: int | None = None) -> onnx.ModelProto:
    """A convolution and, with `height`, a matrix product that takes images of this height alone."""
    weight = random_tensor((32, 3, 3, 3), 0.05, 0, 1)
    nodes = [helper.make_node("Conv", ["images", "w"], ["c"], pads=[1, 1, 1, 1])]
    tensors = [numpy_helper.from_array(weight, "w")]
    if height is not None:
        nodes += [helper.make_node("MatMul", ["c", "v"], ["y"])]
        tensors += [
            numpy_helper.from_array(random_tensor((height, 16), 0.05, 0, 2), "v")
        ]
    else:
        nodes += [helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [value("images", FLOAT, dims)], [value("y", FLOAT, None)], tensors
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def choice(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get_metadata(onnx.load(str(path)))[CHOICE])
    return found


@pytest.mark.parametrize(
    "dims", [[-1, 3, -1, -1], [0, 3, None, None], ["n", 3, "h", "w"]]
)
def test_open_axes_of_every_kind(tmp_path: Path, dims: list[Any]) -> None:
    source = save(conv_net(dims), tmp_path / "a.onnx")
    report = pack_onnx(source, tmp_path / "b.onnx", target="sparse-ort")
    batch = 0 if dims[0] == 0 else 1  # onnxruntime takes a 0 at its word
    assert report.max_abs_difference is not None
    assert (
        f"for the sizes images [{batch}, 3, 224, 224], which were made up"
        in report.notes[-1]
    )
    assert pack_onnx(source, tmp_path / "b.onnx", verify=False).notes == ()


def test_the_sizes_that_are_given_decide(tmp_path: Path) -> None:
    source = save(conv_net(["batch", 3, "h", "w"]), tmp_path / "a.onnx")
    for given, shape in (
        ({"input_shapes": {"images": (1, 3, 40, 48)}}, [1, 3, 40, 48]),
        ({"axes": {"batch": 2, "h": 40, "w": 48}}, [2, 3, 40, 48]),
        ({"inputs": {"images": np.ones((3, 3, 8, 9), np.float32)}}, [3, 3, 8, 9]),
    ):
        report = pack_onnx(source, tmp_path / "b.onnx", target="sparse-ort", **given)  # type: ignore[arg-type]
        assert report.notes[-1].startswith(
            "layers were chosen and outputs compared for the sizes"
        )
        assert report.notes[-1].endswith(f"images {shape}, which were given")
        assert (
            choice(tmp_path / "b.onnx")["sizes"],
            choice(tmp_path / "b.onnx")["sizes_from"],
        ) == (
            {"images": shape},
            "given",
        )
    part = pack_onnx(source, tmp_path / "b.onnx", axes={"h": 40})
    assert (
        "images [1, 3, 40, 224], which were given in part and made up in part"
        in part.notes[-1]
    )
    fixed = save(conv_net([1, 3, 40, 48]), tmp_path / "fixed.onnx")
    assert pack_onnx(fixed, tmp_path / "b.onnx", target="sparse-ort").notes == ()
    assert choice(tmp_path / "b.onnx")["sizes_from"] == "fixed by the file"


def test_sizes_are_tried_until_the_model_runs(tmp_path: Path) -> None:
    source = save(conv_net(["n", 3, "h", "w"], 640), tmp_path / "a.onnx")
    assert "images [1, 3, 640, 640]" in pack_onnx(source, tmp_path / "b.onnx").notes[-1]
    odd = save(conv_net(["n", 3, "h", "w"], 11), tmp_path / "odd.onnx")
    report = pack_onnx(odd, tmp_path / "b.onnx")
    assert (report.max_abs_difference, report.ratio > 1) == (None, True)
    assert (
        "outputs were not compared: the original does not run on any of"
        in report.notes[-1]
    )
    assert pack_onnx(odd, tmp_path / "b.onnx", axes={"w": 11}).max_abs_difference == 0
    assert (
        "does not run at the sizes given"
        in pack_onnx(odd, tmp_path / "b.onnx", axes={"w": 12}).notes[-1]
    )


def test_what_contradicts_the_file_changes_nothing(tmp_path: Path) -> None:
    source = save(conv_net(["n", 3, "h", "w"], 11), tmp_path / "a.onnx")
    for given, error, words in (
        (
            {"input_shapes": {"images": (1, 4, 8, 8)}},
            ExportError,
            r"\[n, 3, h, w\] in the file, which \[1, 4, 8, 8\]",
        ),
        (
            {"input_shapes": {"image": (1, 3, 8, 8)}},
            UnknownNameError,
            "unknown input 'image'; did you mean 'images'",
        ),
        ({"axes": {"b": 8}}, UnknownNameError, "unknown axis 'b'; Known: h, n, w"),
        (
            {"inputs": {"images": np.ones((1, 3, 8, 8), np.float32)}},
            ExportError,
            "does not run on the inputs given",
        ),
    ):
        with pytest.raises(error, match=words):
            pack_onnx(source, tmp_path / "b.onnx", **given)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_options(tmp_path: Path) -> None:
    source, out, told = (
        save(conv_net(["n", 3, "h", "w"]), tmp_path / "a.onnx"),
        tmp_path / "b.onnx",
        tmp_path / "r.json",
    )
    run = CliRunner().invoke
    sizes = ["--input-shape", "images=1,3,40,48", "--axis", "n=1"]
    done = run(
        app,
        [
            "pack",
            str(source),
            str(out),
            "--target",
            "sparse-ort",
            *sizes,
            "--json",
            str(told),
        ],
    )
    assert done.exit_code == 0, done.output
    assert (
        "images [1, 3, 40, 48], which were given"
        in json.loads(told.read_text())["notes"][-1]
    )
    assert choice(out)["sizes"] == {"images": [1, 3, 40, 48]}
    done = run(
        app,
        [
            "inspect",
            str(out),
            "--measure",
            "--axis",
            "h=16",
            "--axis",
            "w=16",
            "--json",
            str(told),
        ],
    )
    assert done.exit_code == 0, done.output
    assert (
        "times measured for the sizes images [1, 3, 16, 16]"
        in json.loads(told.read_text())["measured_for"]
    )
    assert json.loads(told.read_text())["speed"]["latency"] > 0
    for wrong in (
        ["--axis", "n"],
        ["--axis", "n=1,2"],
        ["--input-shape", "images=a,b"],
        ["--axis", "n=1", "--axis", "n=2"],
    ):
        assert (
            run(app, ["pack", str(source), str(tmp_path / "c.onnx"), *wrong]).exit_code
            == 2
        )
    assert not (tmp_path / "c.onnx").exists()
    with pytest.raises(
        ExportError, match=r"sizes are for measuring: pass measure=True"
    ):
        inspect_file(out, axes={"n": 1})


class Block(nn.Module):
    """A transformer's layer, and a head on the tokens that a mask leaves: their number is known in a run alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.ids = heads, nn.Embedding(50, width)
        self.qkv, self.out, self.head = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.ids(ids)
        batch, tokens, width = x.size()
        packed = (
            self.qkv(x)
            .view(batch, tokens, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        scores = (
            packed[0] @ packed[1].transpose(-1, -2)
            + (1.0 - mask[:, None, None, :].float()) * -1e4
        )
        mixed = (scores.softmax(-1) @ packed[2]).permute(0, 2, 1, 3).contiguous()
        x = x + self.out(mixed.view((*mixed.size()[:-2], width)))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x[mask.bool()])


def transformer(path: Path, dynamic: bool) -> Path:
    """The block as an ONNX file of 128 tokens, or of any number; the estimate takes some layers at this density."""
    torch.manual_seed(0)
    block = Block(192, 4).eval()
    for module in block.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight *= torch.rand_like(module.weight) < 0.17
    inputs = (torch.randint(0, 50, (1, 128)), torch.ones(1, 128, dtype=torch.int64))
    axes = (
        {name: {0: "batch", 1: "tokens"} for name in ("ids", "mask")} if dynamic else {}
    )
    torch.onnx.export(
        block,
        inputs,
        str(path),
        input_names=["ids", "mask"],
        dynamic_axes=axes,
        dynamo=False,
    )
    model = onnx.load(str(path))
    del model.graph.value_info[:]  # not all exporters leave them
    return save(model, path)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore::torch.jit.TracerWarning",
)
def test_a_transformer_with_open_axes_gets_the_layers_that_it_gets_with_fixed_ones(
    tmp_path: Path,
) -> None:
    fixed, dynamic = (
        transformer(tmp_path / name, name == "dynamic.onnx")
        for name in ("fixed.onnx", "dynamic.onnx")
    )
    expected = pack_onnx(fixed, tmp_path / "p.onnx", target="sparse-ort", axes={})
    found = pack_onnx(dynamic, tmp_path / "q.onnx", target="sparse-ort")
    assert "ids [1, 128], mask [1, 128]" in found.notes[-1]
    assert 0 < len(expected.sparse_layers) < 6
    assert [row.encoding for row in found.layers] == [
        row.encoding for row in expected.layers
    ]
    # Packed once more from the file with sparse operators, whose values between layers are others.
    again = pack_onnx(tmp_path / "q.onnx", tmp_path / "r.onnx", target="sparse-ort")
    assert {*again.sparse_layers} == {*found.sparse_layers}


def test_shapes_that_only_a_run_tells(tmp_path: Path) -> None:
    """NonZero, a sequence and a loop leave shapes open that inference cannot know; external data stay."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Concat", ["v", "v"], ["w"], axis=0)], "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("w", FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["a"]),
        helper.make_node("NonZero", ["a"], ["places"]),
        helper.make_node("SplitToSequence", ["a"], ["parts"], axis=0),
        helper.make_node("ConcatFromSequence", ["parts"], ["b"], axis=1),
        helper.make_node("Loop", ["times", "", "b"], ["y"], body=body),
    ]
    tensors = [
        numpy_helper.from_array(np.eye(64, dtype=np.float32), "m"),
        numpy_helper.from_array(np.int64(3), "times"),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", FLOAT, ["n", 64])], [value("y", FLOAT, None)], tensors
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(
        model,
        str(tmp_path / "a.onnx"),
        save_as_external_data=True,
        size_threshold=100,
        location="a.data",
    )
    light = onnx.load(str(tmp_path / "a.onnx"), load_external_data=False)
    feed = {"x": np.ones((2, 64), np.float32)}
    shapes = shapes_of_run(tmp_path / "a.onnx", light, TensorReader(tmp_path), feed)
    assert {name: shapes[name] for name in ("x", "a", "places", "b", "y")} == {
        "x": (2, 64), "a": (2, 64), "places": (2, 128), "b": (1, 128), "y": (8, 128),
    }  # fmt: skip
    assert "parts" not in shapes
    assert "y" not in shapes_of_run(
        tmp_path / "a.onnx",
        light,
        TensorReader(tmp_path),
        {"x": np.ones((2, 3), np.float32)},
    )
