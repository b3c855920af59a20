"""Exporting a run needs neither its data nor the scores that chose its masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sparsify_fx.api import dense_state_dict
from sparsify_fx.cli import app
from sparsify_fx.train import Result
from sparsify_fx.train.restore import load_trained
from sparsify_fx.train.session import build_session
from tests.train.common import quietly, small, write_images

pytestmark = pytest.mark.slow


def exported(run: Path, out: Path) -> dict[str, Any]:
    """The report of `sparsify-fx export`."""
    result = CliRunner().invoke(app, ["export", str(run), str(out), "--json", "-"])
    assert result.exit_code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def outputs(file: Path, x: torch.Tensor) -> Any:
    session = onnxruntime.InferenceSession(
        str(file), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def unfinished(run: Path) -> None:
    """As a run is that was killed after its last checkpoint."""
    (run / "result.json").unlink()
    (run / "model.safetensors").unlink()


@pytest.fixture
def run(tmp_path: Path) -> Result:
    """Masks by scores that look at data, on an .npz of one's own."""
    return quietly(
        small(write_images(tmp_path / "own.npz"), "method=snip"), tmp_path / "runs"
    )


def test_a_run_is_exported_when_its_data_are_gone(run: Result, tmp_path: Path) -> None:
    with_data = exported(Path(run.folder), tmp_path / "model.onnx")
    assert (
        with_data["notes"][-1]
        == f"checked on 20 test images of npz:{tmp_path / 'own.npz'}"
    )
    (tmp_path / "own.npz").unlink()
    report = exported(Path(run.folder), tmp_path / "again.onnx")
    assert "20 random inputs" in report["notes"][-1]
    assert "own.npz does not exist" in report["notes"][-1]
    assert report["nonzeros"] == with_data["nonzeros"]
    x = torch.randn(3, 1, 16, 16)
    assert np.array_equal(
        outputs(tmp_path / "again.onnx", x), outputs(tmp_path / "model.onnx", x)
    )


@pytest.mark.parametrize("state", ["finished", "killed", "of 0.1", "killed, of 0.1"])
def test_a_model_is_restored_without_data_and_scores(
    run: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    folder = Path(run.folder)
    expected = load_trained(folder).model.state_dict()
    (tmp_path / "own.npz").unlink()
    if "killed" in state:
        unfinished(folder)
    if "0.1" in state:
        (folder / "data.json").unlink()

    def scored(*_: Any) -> None:
        raise AssertionError("weights were scored again")

    monkeypatch.setattr("sparsify_fx.scheduler.first_masks.choose", scored)
    trained = load_trained(folder)
    assert tuple(trained.inputs.shape) == (20, 1, 16, 16)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    "method", ["signin", "lrr+signin", "str", "l0", "rigl", "dense"]
)
def test_a_checkpoint_gives_the_weights_of_the_session_that_wrote_it(
    tmp_path: Path, method: str
) -> None:
    config = small(write_images(tmp_path / "own.npz"), f"method={method}")
    result = quietly(config, tmp_path / "runs")
    session = build_session(config)
    state = torch.load(Path(result.folder) / "checkpoint.pt", weights_only=True)
    session.load_model(state)
    expected = dense_state_dict(session.model)
    got = load_trained(Path(result.folder) / "checkpoint.pt").model.state_dict()
    finished = load_trained(result.folder).model.state_dict()
    assert list(got) == list(expected) == list(finished)
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
        assert torch.equal(finished[name], tensor), name


def test_an_image_folder_may_have_moved_away(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog", "eel"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    config = small(tmp_path / "x").model_copy(
        update={"data": f"imagefolder:{tmp_path / 'images'}", "model": "lenet300"}
    )
    result = quietly(config, tmp_path / "runs")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    report = exported(Path(result.folder), tmp_path / "model.onnx")
    assert "random inputs" in report["notes"][-1]
    assert outputs(tmp_path / "model.onnx", torch.randn(2, 3, 12, 12)).shape == (2, 3)


def test_data_of_another_size_are_not_fed_to_the_model(
    run: Result, tmp_path: Path
) -> None:
    write_images(tmp_path / "own.npz", side=20)
    report = exported(Path(run.folder), tmp_path / "model.onnx")
    assert "its images are [1, 20, 20] now" in report["notes"][-1]


def test_cifar_is_not_downloaded_for_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.utils

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was asked for")

    monkeypatch.setattr(
        torchvision.datasets.utils, "urlretrieve", refuse, raising=False
    )
    monkeypatch.setattr(
        torchvision.datasets.cifar, "download_and_extract_archive", refuse
    )
    result = quietly(
        small(write_images(tmp_path / "own.npz", side=32), "model=lenet5"),
        tmp_path / "runs",
    )
    settings = Path(result.folder) / "config.yaml"
    text = settings.read_text().replace(f"npz:{tmp_path / 'own.npz'}", "cifar10")
    settings.write_text(
        text.replace("data_root: data", f"data_root: {tmp_path / 'none'}")
    )
    trained = load_trained(result.folder)
    assert "cifar10 is not in" in trained.inputs_are
    assert not (tmp_path / "none").exists()
