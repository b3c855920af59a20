"""Data in folders of images, held in memory or streamed."""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Augment, Data, FolderSource, load_data
from sparsify_fx.zoo.data.lost_workers import heard_of_lost_workers
from tests.zoo.common import Batches, same, some_digits, tensors


@pytest.fixture
def folder(mnist: Data, tmp_path: Path) -> Path:
    """20 digits of each split as PNG, which keeps every pixel, in folders zero ... nine by digit."""
    images, labels = some_digits(mnist, 2)
    for split in ("train", "val"):
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            path = tmp_path / split / f"digit{label}" / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    return tmp_path


def test_imagefolder_round_trip(folder: Path, mnist: Data) -> None:
    data = load_data(f"imagefolder:{folder}")
    images, labels = some_digits(mnist, 2)
    assert torch.equal(tensors(data.train)[0], images.expand(-1, 3, -1, -1))
    assert torch.equal(tensors(data.test)[1], labels)
    assert data.class_names == tuple(f"digit{d}" for d in range(10))
    assert load_data(f"imagefolder:{folder}", image_size=14).image_size == 14


def streamed(folder: Path, workers: int = 0) -> Data:
    data = load_data(
        f"imagefolder:{folder}", image_size=24, limit_bytes=1, workers=workers
    )
    assert isinstance(data.train, FolderSource)
    return data


def test_a_streamed_folder_gives_the_same_bits_with_any_workers(folder: Path) -> None:
    def epoch(workers: int, number: int) -> Batches:
        part = streamed(folder, workers).train
        return list(
            part.epoch(8, train=True, seed=7, epoch=number, augment=Augment(flip=True))
        )

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = epoch(0, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, epoch(2, 1))
    assert not same(first, epoch(0, 2))
    assert [tuple(x.shape) for x, _ in first] == [(8, 3, 24, 24)] * 2


def test_a_streamed_epoch_from_its_middle_on_has_the_same_batches(
    folder: Path,
) -> None:
    asked: dict[str, Any] = {
        "train": True,
        "seed": 7,
        "epoch": 1,
        "augment": Augment(flip=True),
    }
    whole = list(streamed(folder).epoch(8, **asked))
    for start, workers in ((1, 0), (1, 2), (2, 0)):
        part = streamed(folder, workers).train
        assert same(whole[start:], list(part.epoch(8, **asked, start=start)))


# torch tells a dead worker to whatever runs when the signal comes, also to the end of the loader itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_told_in_words(folder: Path) -> None:
    batches = streamed(folder, 2).train.epoch(1, train=True)
    with pytest.raises(DataError, match=r"was ended .*goes on from"):  # noqa: PT012, SIM117
        with heard_of_lost_workers():
            for _ in batches:
                for worker in multiprocessing.active_children():
                    worker.kill()


def test_a_killed_worker_is_found_behind_the_error_that_comes_of_it() -> None:
    def write(_: object) -> int:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    # As when the signal comes while a checkpoint is written: C++ raises another error in its place.
    stream = io.BytesIO()
    stream.write = write  # type: ignore[method-assign]
    with pytest.raises(DataError, match="pid 7"), heard_of_lost_workers():
        torch.save({"a": torch.ones(3)}, stream)
    with pytest.raises(RuntimeError, match="else"), heard_of_lost_workers():
        raise RuntimeError("something else")


def test_a_streamed_folder_evaluates_in_order(folder: Path, mnist: Data) -> None:
    data = streamed(folder)
    batches = list(data.epoch(8, train=False))
    assert [len(y) for _, y in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([y for _, y in batches]), some_digits(mnist, 2)[1])
    x = torch.cat([x for x, _ in batches])
    assert abs(float(x.mean())) < 1e-4
    assert same(
        batches, list(data.test.epoch(8, train=False, seed=1, augment=Augment(4)))
    )
    ((plain, _),) = data.train.epoch(20, train=True, augment=None)
    assert float(plain.sum()) == pytest.approx(
        float(x.sum()), abs=0.1
    )  # the same images, shuffled


def test_a_streamed_folder_takes_no_padded_crop(folder: Path) -> None:
    with pytest.raises(
        DataError, match="crop_padding=4 does not apply to streamed images"
    ):
        streamed(folder).train.epoch(8, train=True, augment=Augment(4))


def test_malformed_imagefolders(folder: Path) -> None:
    spec = f"imagefolder:{folder}"
    Image.new("RGB", (30, 28)).save(folder / "val" / "digit9" / "99.png")
    with pytest.raises(DataError, match=r"99\.png is 30x28 pixels, .* need image_size"):
        load_data(spec)
    (folder / "val" / "digit9" / "99.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"99\.png cannot be decoded"):
        load_data(spec)
    (folder / "train" / "digit0" / "00.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00\.png is no image"):
        load_data(spec)
    (folder / "train" / "other").mkdir()
    with pytest.raises(
        DataError, match=r"one folder of images for each class: .*other"
    ):
        load_data(spec)
    Image.new("RGB", (28, 28)).save(folder / "train" / "other" / "0.png")
    with pytest.raises(DataError, match="the same classes; only one has other"):
        load_data(spec)
    (folder / "val").rename(folder / "validation")
    with pytest.raises(
        DataError, match="val does not exist; imagefolder:PATH needs PATH/train and"
    ):
        load_data(spec)
