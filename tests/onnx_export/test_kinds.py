"""Files that are neither ONNX nor checkpoints, under any name: the error says what they are and what to do."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from safetensors.torch import save, save_file
from torch import nn

from sparsify_fx.errors import CheckpointError, ExportError
from sparsify_fx.onnx_export import inspect_file


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def of_numpy(write: object) -> bytes:
    stream = io.BytesIO()
    write(stream, np.ones(3))  # type: ignore[operator]
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return stream.getvalue()


def model() -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])
        for name in "xy"
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 123\n"
)
NAMED = {
    "lfs": (LFS, r"a Git LFS pointer, .*git lfs pull"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(40), r"a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), r"an HDF5 file"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(40), r"a TensorFlow Lite model"),
    "npy": (of_numpy(np.save), r"a numpy file.*numpy\.load"),
    "npz": (of_numpy(np.savez), r"a numpy file"),
    "cut npz": (of_numpy(np.savez_compressed)[:-30], r"a numpy file"),
    "gzip": (gzip.compress(b"model"), r"a gzip archive.*gunzip"),
    "zlib": (zlib.compress(bytes(99)), r"packed with zlib"),
    "tar": (tarred(), r"a tar archive"),
    "zip": (
        zipped("a/model.onnx", "b.pt"),
        r"a zip archive of other files \(a/model\.onnx, b\.pt\).*unpack it",
    ),
    "empty zip": (zipped(), r"a zip archive of other files \(none\)"),
    "keras": (
        zipped("config.json", "metadata.json", "model.weights.h5"),
        r"a Keras model",
    ),
    "old export": (
        zipped("serialized_exported_program.json", "version"),
        r"a torch\.export program",
    ),
    "pickle": (
        pickle.dumps(OrderedDict(a=1)),
        r"a pickle of Python objects.*begins with collections\.OrderedDict",
    ),
    "plain pickle": (pickle.dumps([1, 2]), r"a pickle of Python objects"),
    "json": (b'{"hidden_size": 768}', r"a JSON file"),
    "html": (
        b"\n<!DOCTYPE html><html>404 Not Found</html>",
        r"an HTML page.*download the file again",
    ),
    "xml": (b"<?xml version='1.0'?><net/>", r"an XML file"),
    "text": (b"the weights are elsewhere\n", r"a text file"),
    "onnx text": (onnx.printer.to_text(model()).encode(), r"ONNX's text form"),
    "saved model": (
        b"\x08\1" + field(2, field(1, field(5, b"2.15")) + field(2, b"x")),
        r"a TensorFlow graph or Saved",
    ),
    "frozen graph": (
        field(1, field(1, b"x") + field(2, b"Placeholder")) + field(4, b"\x08\x15"),
        r"a TensorFlow",
    ),
    "paddle": (
        field(1, b"\x08\0\x10\0") + field(4, b"\x08\1"),
        r"a PaddlePaddle program.*paddle2onnx",
    ),
    "core ml": (
        b"\x08\4" + field(2, field(1, b"in")) + field(500, b"abc"),
        r"a Core ML model",
    ),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(40), r"an image"),
}


@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("name", NAMED)
def test_other_kinds_are_named_whatever_the_suffix(
    tmp_path: Path, name: str, suffix: str
) -> None:
    content, message = NAMED[name]
    (tmp_path / f"file{suffix}").write_bytes(content)
    with pytest.raises(
        ExportError if suffix == ".onnx" else CheckpointError, match=message
    ):
        inspect_file(tmp_path / f"file{suffix}")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_what_torch_and_onnxruntime_write_beside_state_dicts(tmp_path: Path) -> None:
    net, x = nn.Linear(4, 4), torch.ones(1, 4)
    torch.jit.trace(net, x).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(net, (x,)), str(tmp_path / "program.pt2"))
    (tmp_path / "program.pt2").rename(tmp_path / "program.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.bin")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for name, message in {
        "script.pt": r"a TorchScript archive.*torch\.jit\.load",
        "program.onnx": r"a torch\.export program",
        "model.bin": r"an \.ort file of onnxruntime",
    }.items():
        with pytest.raises((CheckpointError, ExportError), match=message):
            inspect_file(tmp_path / name)


@pytest.mark.parametrize(
    "suffix", [".pt", ".onnx", ".safetensors", ".bin", ".json", ""]
)
def test_what_can_be_read_is_read_whatever_the_suffix(
    tmp_path: Path, suffix: str
) -> None:
    path, state = tmp_path / f"file{suffix}", {"w": torch.eye(4)}
    for legacy in (False, True):
        with path.open("wb") as stream:
            torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
        assert (inspect_file(path).kind, inspect_file(path).nonzeros) == ("torch", 4)
    path.write_bytes(save(state))
    assert (inspect_file(path).kind, inspect_file(path).nonzeros) == ("safetensors", 4)
    path.write_bytes(model().SerializeToString())
    assert inspect_file(path).kind == "onnx"


def test_onnx_files_in_any_order_of_fields(tmp_path: Path) -> None:
    """Protobuf prescribes none: some writers put the graph first."""
    graph, rest = model(), model()
    for name in ("ir_version", "opset_import"):
        graph.ClearField(name)
    rest.ClearField("graph")
    (tmp_path / "m.bin").write_bytes(
        graph.SerializeToString() + rest.SerializeToString()
    )
    assert inspect_file(tmp_path / "m.bin").kind == "onnx"


def test_archives_that_unpack_to_very_much_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="unpacks to 10,000,000 bytes"):
        inspect_file(tmp_path / "m.pt")


def shards(folder: Path, *, index: bool = True) -> None:
    parts = {
        "model-00001-of-00002": {"a": torch.eye(4)},
        "model-00002-of-00002": {"b": torch.zeros(2, 2)},
    }
    for name, state in parts.items():
        save_file(state, folder / f"{name}.safetensors")
    if index:
        named = {
            key: f"{name}.safetensors" for name, state in parts.items() for key in state
        }
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": named})
        )
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint(tmp_path: Path, index: bool) -> None:
    shards(tmp_path, index=index)
    report = inspect_file(tmp_path)
    assert ([row.name for row in report.layers], report.kind) == (
        ["a", "b"],
        "safetensors",
    )
    assert report.bytes_file == sum(
        file.stat().st_size for file in tmp_path.glob("*.safetensors")
    )
    if index:
        assert (
            inspect_file(tmp_path / "model.safetensors.index.json").layers
            == report.layers
        )
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"of which 1 are not beside it" if index else r"holds 1 of 2 shards",
    ):
        inspect_file(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a\\b", "", 3])
def test_an_index_names_only_files_beside_it(tmp_path: Path, name: object) -> None:
    save_file({"a": torch.eye(2)}, tmp_path / "model.safetensors")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="names no shards beside it"):
        inspect_file(path)


def test_folders(tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        (tmp_path / "pipe" / name).mkdir(parents=True)
        save_file(
            {"a": torch.eye(2)},
            tmp_path / "pipe" / name / "diffusion_pytorch_model.safetensors",
        )
    with pytest.raises(
        CheckpointError,
        match=r"several files of weights; give one: unet/diff.*, vae/diff",
    ):
        inspect_file(tmp_path / "pipe")
    assert inspect_file(tmp_path / "pipe" / "unet").nonzeros == 2
    torch.save({"b": torch.ones(2, 2)}, tmp_path / "pipe" / "unet" / "checkpoint.bin")
    assert inspect_file(tmp_path / "pipe" / "unet").nonzeros == 2  # the usual name
    for file, message in {
        "saved_model.pb": "a TensorFlow SavedModel",
        ".metadata": r"torch\.distributed\.checkpoint",
        "_CHECKPOINT_METADATA": "Orbax",
        "config.json": "a folder without weights",
    }.items():
        folder = tmp_path / file.strip("._")
        folder.mkdir()
        (folder / file).write_bytes(b"{}")
        with pytest.raises(CheckpointError, match=message):
            inspect_file(folder)
