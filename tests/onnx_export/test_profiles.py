"""Profiles: each file of the folder is one target, whose files hold nothing but what its runtime folds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsify_fx.cli import app
from sparsify_fx.errors import ExportError, UnknownNameError
from sparsify_fx.onnx_export import pack_onnx, profiles, unpack_onnx
from sparsify_fx.onnx_export.profiles import PROFILES, Profile
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from tests.onnx_export.arrays import matmul_with, random_tensor, save

STANDARD = [name for name in PROFILES if name != "sparse-ort"]


def dense_file(tmp_path: Path, opset: int = 18) -> Path:
    weight = random_tensor((300, 260), 0.1, 0, 1)
    return save(matmul_with(weight, opset=opset), tmp_path / "dense.onnx")


def test_every_file_of_the_folder_is_one_target() -> None:
    folder = Path(profiles.__file__).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "profile"}
    assert {name.replace("-", "_") for name in PROFILES} == files
    assert [*PROFILES][:3] == ["onnx", "onnxruntime", "sparse-ort"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda each: each.name)
def test_profiles_name_known_things(profile: Profile) -> None:
    assert set(profile.encodings) <= set(ENCODINGS)
    assert "dense" in profile.encodings
    assert set(profile.values) <= set(VALUES)
    assert profile.checked
    # One that has nothing to fold has only dense weights, and says why.
    assert bool(profile.operators) == (profile.encodings != ("dense",))
    assert bool(profile.note) == (not profile.operators)


@pytest.mark.parametrize("target", STANDARD)
def test_files_hold_what_the_runtime_folds(tmp_path: Path, target: str) -> None:
    profile, source = PROFILES[target], dense_file(tmp_path)
    report = pack_onnx(source, tmp_path / "packed.onnx", target=target)
    model = onnx.load(tmp_path / "packed.onnx")
    added = {node.op_type for node in model.graph.node} - {"MatMul"}
    assert added <= profile.operators
    assert not model.graph.sparse_initializer
    assert report.target == target
    assert report.layers[0].encoding in profile.encodings
    if profile.operators:
        assert report.ratio > 5
    else:
        assert (tmp_path / "packed.onnx").read_bytes() == source.read_bytes()
        assert profile.note in report.notes
    unpack_onnx(tmp_path / "packed.onnx", tmp_path / "plain.onnx")
    weights = [
        onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[0])
        for file in (source, tmp_path / "plain.onnx")
    ]
    assert np.array_equal(*weights)


def test_what_a_target_does_not_take_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    source, place = dense_file(tmp_path), tmp_path / "packed.onnx"
    with pytest.raises(
        ExportError, match="encoding='coo' is not for target 'openvino', which takes"
    ):
        pack_onnx(source, place, target="openvino", encoding="coo")
    with pytest.raises(
        ExportError, match="encoding='gap' is not for target 'tvm', which takes dense;"
    ):
        pack_onnx(source, place, target="tvm", encoding="gap")
    with pytest.raises(
        ExportError, match="values='int8' is not for target 'mnn', which takes fp32;"
    ):
        pack_onnx(source, place, target="mnn", values="int8")
    with pytest.raises(ExportError, match="functions=True is not for target 'tract'"):
        pack_onnx(source, place, target="tract", functions=True)
    with pytest.raises(UnknownNameError, match="openvino"):
        pack_onnx(source, place, target="openvin")
    assert not place.exists()


def test_weights_too_large_to_be_folded_stay_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = dataclasses.replace(PROFILES["tract"], name="small", largest=9999)
    monkeypatch.setitem(PROFILES, "small", small)
    for side, expected in ((90, "gap"), (99, "gap"), (100, "dense")):
        model = matmul_with(random_tensor((side, side), 0.1, 0, 1))
        (row,) = encode_initializers(model, Wanted(target="small")).rows
        assert row.encoding == expected


def test_a_model_of_newer_operators_than_were_tried_is_told(tmp_path: Path) -> None:
    source = dense_file(tmp_path, opset=23)
    report = pack_onnx(source, tmp_path / "packed.onnx", target="tract", verify=False)
    assert any(note.startswith("the model has opset 23") for note in report.notes)


def test_the_command_takes_targets(tmp_path: Path) -> None:
    source, place = dense_file(tmp_path), tmp_path / "packed.onnx"
    done = CliRunner().invoke(
        app, ["pack", str(source), str(place), "--target", "openvino"]
    )
    assert done.exit_code == 0, done.output
    kinds = {node.op_type for node in onnx.load(place).graph.node}
    assert "ScatterElements" in kinds
    done = CliRunner().invoke(
        app, ["pack", str(source), str(place), "--target", "iree"]
    )
    assert done.exit_code == 0, done.output
    assert "iree decodes packed weights again in every run" in " ".join(
        done.output.split()
    )
