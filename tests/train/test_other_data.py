"""The data are part of a run: others under the same name are noticed, in the run and in those it takes from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsify_fx.analysis.runs import Run
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train import Result
from sparsify_fx.train.restore import load_trained
from sparsify_fx.zoo.data import data_digest, load_data
from tests.train.common import quietly, small, write_images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "mine.npz")


def unfinish(run: Path) -> None:
    """Take the mark of its end away."""
    (run / "result.json").unlink()


def change(path: Path, what: str) -> None:
    """Other data in the place of the same file."""
    with np.load(path) as archive:
        images, labels = archive["images"], archive["labels"]
    if what == "one pixel":
        images[3, 5, 7] += 1
    elif what == "one label":
        labels[[0, 1]] = labels[[1, 0]]
    elif what == "fewer":
        images, labels = images[:-4], labels[:-4]
    elif what == "their order":
        images, labels = images[::-1], labels[::-1]
    np.savez(path, images=images, labels=labels)


@pytest.mark.parametrize("what", ["one pixel", "one label", "fewer", "their order"])
def test_a_finished_run_on_other_data_is_not_returned(
    data: Path, tmp_path: Path, what: str
) -> None:
    config = small(data, "method=random")
    first = quietly(config, tmp_path / "runs")
    assert quietly(config, tmp_path / "runs") == first
    change(data, what)
    with pytest.raises(
        CheckpointError, match=r"is finished, but on other data.*--force"
    ):
        quietly(config, tmp_path / "runs")
    assert (
        Result.from_dict(json.loads((first.path / "result.json").read_text())) == first
    ), "it is still there"
    again = quietly(config, tmp_path / "runs", force=True)
    assert again.path == first.path
    assert again != first
    assert quietly(config, tmp_path / "runs") == again


def test_a_run_on_other_data_is_not_resumed(data: Path, tmp_path: Path) -> None:
    config = small(data, "method=lrr")
    path = quietly(config, tmp_path / "runs").path
    unfinish(path)
    kept = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    write_images(data, shift=1)
    with pytest.raises(CheckpointError, match="was begun, but on other data"):
        quietly(config, tmp_path / "runs")
    for name in ("checkpoint.pt", "metrics.jsonl", "data.json"):
        assert (path / name).read_bytes() == kept[name]
    write_images(data)  # the old ones again
    assert quietly(config, tmp_path / "runs").path == path


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_the_data_of_now(
    data: Path, tmp_path: Path
) -> None:
    config = small(data, "method=random")
    path = quietly(config, tmp_path / "runs").path
    unfinish(path)
    (path / "checkpoint.pt").unlink()
    write_images(data, shift=1)
    quietly(config, tmp_path / "runs")
    assert json.loads((path / "data.json").read_text())["digest"] == data_digest(
        f"npz:{data}"
    )


def test_the_name_of_the_folder_says_nothing_of_the_data(
    data: Path, tmp_path: Path
) -> None:
    config = small(data, "method=random")
    before = config.hash()
    write_images(data, shift=2)
    assert config.hash() == before


def test_folders_of_version_0_1_go_on(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(data, "method=lrr", "sparsity=0.2")
    first = quietly(config, tmp_path / "runs")
    weights = (first.path / "model.safetensors").read_bytes()
    state = torch.load(first.path / "checkpoint.pt", weights_only=True)
    del state["nonzeros"]
    torch.save(state, first.path / "checkpoint.pt")  # without a checksum
    result = json.loads((first.path / "result.json").read_text())
    del result["notes"]
    (first.path / "result.json").write_text(json.dumps(result))
    (first.path / "data.json").unlink()
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        assert quietly(config, tmp_path / "runs") == first
        unfinish(first.path)
        assert quietly(config, tmp_path / "runs").cycles == first.cycles
    assert len(caplog.messages) == 2
    assert all("no digest of its data" in line for line in caplog.messages)
    assert (first.path / "model.safetensors").read_bytes() == weights


def test_data_that_are_gone_cannot_be_compared(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(data, "method=random")
    first = quietly(config, tmp_path / "runs")
    data.unlink()
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        assert quietly(config, tmp_path / "runs") == first
    assert "cannot be compared" in caplog.text


def test_analyses_want_the_data_of_the_run(data: Path, tmp_path: Path) -> None:
    path = quietly(small(data, "method=random"), tmp_path / "runs").path
    assert Run(path).test_batches()
    assert load_trained(path).inputs.shape[0] == 20
    write_images(data, shift=1)
    with pytest.raises(CheckpointError, match="was trained, but on other data"):
        Run(path).test_batches()


# ---------------------------------------------------------------------- runs to take from

DONOR = ["method=lrr", "save_cycles=true", "sparsity=0.36"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=3", "fit this seed: seed is 0 there, 3 here"),
        (
            "init=kaiming_normal",
            "fit this init: init is 'default' there, 'kaiming_normal' here",
        ),
        ("model=lenet5", "fit this model: model is 'lenet300' there, 'lenet5' here"),
        ("data=npz:OTHER", "fit this data: the data of .* are others there"),
        ("image_size=20", "fit this data: image_size is None there, 20 here"),
    ],
)
@pytest.mark.parametrize("way", ["init_from", "masks-of", "signs-of"])
def test_a_run_to_take_from_differs_in_nothing_but_its_method(
    data: Path, tmp_path: Path, override: str, told: str, way: str
) -> None:
    write_images(tmp_path / "other.npz", shift=1)
    there = quietly(small(data, *DONOR), tmp_path / "runs").path
    taken = {
        "init_from": ["method=random", f"init_from={{run: {there}}}"],
        "masks-of": ["method=wr", f"axes.criterion={{name: masks-of, run: {there}}}"],
        "signs-of": ["method=wr", f"axes.actions={{name: signs-of, source: {there}}}"],
    }[way]
    config = small(
        data,
        "sparsity=0.36",
        *taken,
        override.replace("OTHER", str(tmp_path / "other.npz")),
    )
    here = tmp_path / "here"
    with pytest.raises(CheckpointError, match=told):
        quietly(config, here)
    assert not here.exists()


@pytest.mark.parametrize("way", ["init_from", "masks-of"])
def test_a_difference_can_be_allowed(data: Path, tmp_path: Path, way: str) -> None:
    there = quietly(small(data, *DONOR), tmp_path / "runs").path
    taken = (
        f"init_from={{run: {there}}}"
        if way == "init_from"
        else f"axes.criterion={{name: masks-of, run: {there}}}"
    )
    given = [
        "sparsity=0.36",
        "method=random" if way == "init_from" else "method=wr",
        taken,
        "seed=1",
    ]
    config = small(data, *given)
    with pytest.raises(CheckpointError, match=r"allow it with allow_other=\[seed\]"):
        quietly(config, tmp_path / "runs")
    allowed = small(data, *given, "allow_other=[seed]")
    assert allowed.hash() == config.hash()
    assert (
        quietly(allowed, tmp_path / "runs").nonzeros
        == quietly(small(data, *DONOR), tmp_path / "runs").nonzeros
    )


def test_a_file_counts_as_the_run_that_it_lies_in(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = quietly(small(data, *DONOR), tmp_path / "runs").path
    given = ["method=random", "sparsity=0.36", "seed=1"]
    with pytest.raises(CheckpointError, match="seed is 0 there, 1 here"):
        quietly(
            small(data, *given, f"init_from.run={there}/cycle-2.safetensors"),
            tmp_path / "runs",
        )
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((there / "cycle-2.safetensors").read_bytes())
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        quietly(small(data, *given, f"init_from.run={alone}"), tmp_path / "runs")
    assert "are not compared" in caplog.text


def test_a_run_of_0_1_to_take_from_is_compared_by_the_name_of_its_data(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = quietly(small(data, *DONOR), tmp_path / "runs").path
    (there / "data.json").unlink()
    given = ["method=random", "sparsity=0.36", f"init_from.run={there}"]
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        quietly(small(data, *given), tmp_path / "runs")
    assert "only their name agrees" in caplog.text
    other = write_images(tmp_path / "other.npz", shift=1)
    with pytest.raises(CheckpointError, match="fit this data: data is 'npz:"):
        quietly(small(other, *given), tmp_path / "runs")


# ---------------------------------------------------------------------- digests


def folder_of_images(root: Path, shade: int = 0) -> Path:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            place = root / part / label
            place.mkdir(parents=True, exist_ok=True)
            for index in range(3):
                Image.new("RGB", (8, 8), (40 * index + shade, 0, 90)).save(
                    place / f"{index}.png"
                )
    return root


def test_the_digest_of_an_image_folder(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images")
    spec = f"imagefolder:{root}"
    digest = data_digest(spec)
    assert len(digest) == 32
    assert load_data(spec).digest == load_data(spec, image_size=16).digest == digest
    assert load_data(spec, image_size=16, limit_bytes=10).digest == digest, "streamed"
    moved = root.rename(tmp_path / "moved")
    spec = f"imagefolder:{moved}"
    assert data_digest(spec) == digest
    first = moved / "train" / "cat" / "0.png"
    first.rename(first.with_name("9.png"))
    assert data_digest(spec) != digest
    first.with_name("9.png").rename(first)
    assert data_digest(spec) == digest
    folder_of_images(moved, shade=1)
    assert data_digest(spec) != digest


def test_large_folders_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of_images(tmp_path / "images")
    spec, read = f"imagefolder:{root}", []
    content = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (read.append(path), content(path))[1]
    )
    whole = data_digest(spec)
    assert len(read) == 12
    monkeypatch.setattr("sparsify_fx.zoo.data.imagefolder.LIMIT_BYTES", 10)
    monkeypatch.setattr("sparsify_fx.zoo.data.imagefolder._SAMPLE", 2)
    del read[:]
    assert data_digest(spec) != whole
    assert len(read) == 4
    (root / "train" / "dog" / "2.png").write_bytes(b"longer" * 100)
    assert data_digest(spec) != data_digest(
        f"imagefolder:{folder_of_images(tmp_path / 'again')}"
    )


def test_the_digest_does_not_depend_on_the_size_asked_for(data: Path) -> None:
    spec = f"npz:{data}"
    assert (
        load_data(spec, image_size=20).digest
        == load_data(spec).digest
        == data_digest(spec)
    )


def test_cifar_is_known_by_the_sum_of_its_archive(tmp_path: Path) -> None:
    assert data_digest("cifar10", root=tmp_path / "none") != data_digest(
        "cifar100", root=tmp_path / "none"
    )
    assert not (tmp_path / "none").exists()
