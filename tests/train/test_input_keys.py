"""The keys of the input: which are in the name of a run, and that none of them changes what it need not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsify_fx.errors import SparsifyError
from sparsify_fx.train import load_config
from sparsify_fx.train.session import build_session
from sparsify_fx.zoo.data import Augment, Data, load_data
from sparsify_fx.zoo.data.loader import Texts
from tests.train.common import quietly, small, write_images
from tests.zoo.common import same


def photos(folder: Path, each: int = 6, side: int = 40) -> Path:
    """JPEGs of three classes in train and val, of noise on a gray level that tells the class."""
    numbers = np.random.default_rng(3)
    for part in ("train", "val"):
        for label in range(3):
            (folder / part / f"class{label}").mkdir(parents=True)
            for i in range(each):
                noise = numbers.integers(0, 60, (side, side + i, 3)) + 70 * label
                path = folder / part / f"class{label}" / f"{i}.jpeg"
                Image.fromarray(noise.astype(np.uint8)).save(path, quality=92)
    return folder


def streamed(folder: Path, workers: int) -> Data:
    return load_data(
        f"imagefolder:{folder}", image_size=24, limit_bytes=1, workers=workers
    )


def test_workers_and_prefetch_are_no_part_of_a_name(tmp_path: Path) -> None:
    config = small(write_images(tmp_path / "a.npz"))
    for same_name in ("workers=0", "prefetch=7", "channels_last=false"):
        assert small(tmp_path / "a.npz", same_name).hash() == config.hash(), same_name
    others = ("channels_last=true", "decode=fast")
    assert (
        len({small(tmp_path / "a.npz", o).hash() for o in others} - {config.hash()})
        == 2
    )


@pytest.mark.parametrize("streams", [False, True])
def test_an_epoch_begins_after_any_of_its_batches(
    tmp_path: Path, streams: bool
) -> None:
    npz = f"npz:{write_images(tmp_path / 'a.npz')}"
    data = streamed(photos(tmp_path), 0) if streams else load_data(npz)
    augment = Augment(0 if streams else 2, flip=True)

    def epoch(start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        options = {"train": True, "seed": 3, "epoch": 2, "augment": augment}
        return list(data.train.epoch(4, start=start, **options))  # type: ignore[arg-type]

    whole = epoch(0)
    for start in range(len(whole) + 1):
        assert same(whole[start:], epoch(start))
    assert (
        len(list(data.test.epoch(4, train=False, start=1)))
        == -(-len(data.test) // 4) - 1
    )


def test_any_number_of_workers_gives_the_same_bits(tmp_path: Path) -> None:
    photos(tmp_path)
    epochs = [
        list(
            streamed(tmp_path, workers).train.epoch(
                4, train=True, seed=1, epoch=3, augment=Augment(flip=True), start=start
            )
        )
        for workers, start in ((0, 0), (1, 0), (2, 0), (2, 2))
    ]
    assert same(epochs[0], epochs[1])
    assert same(epochs[0], epochs[2])
    assert same(epochs[0][2:], epochs[3])


def test_channels_last_trains_in_that_order(tmp_path: Path) -> None:
    data = write_images(tmp_path / "a.npz")
    plain, laid = (
        small(data, "model=lenet5", "image_size=28", f"channels_last={value}")
        for value in ("false", "true")
    )
    session = build_session(laid)
    x, _ = next(session.training_batches(1))
    assert x.is_contiguous(memory_format=torch.channels_last)
    accuracies = [quietly(config, tmp_path / "runs").loss for config in (plain, laid)]
    assert accuracies[0] == pytest.approx(accuracies[1], rel=0.02)


def test_texts_are_what_they_were() -> None:
    names = ["", "a", "Käse/ä.png", "b" * 300]
    texts = Texts(names)
    assert list(texts) == names
    assert texts[1:] == tuple(names[1:])
    with pytest.raises(IndexError):
        texts[4]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("workers=-1", "workers: .* greater than or equal to 0, got -1"),
        ("prefetch=0", "prefetch: .* greater than or equal to 1, got 0"),
        ("decode=slow", "decode: unknown decoder 'slow'"),
        ("accumulate=0", "accumulate: .* greater than or equal to 1, got 0"),
        ("validation=1.5", "validation: .* less than 1, got 1.5"),
        ("checkpoint={minutes: -1}", "checkpoint.minutes: .* greater than 0, got -1"),
        ("checkpoint=10", "checkpoint: expected a section with the keys steps, min"),
        ("checkpoint_every=0", "lenet5: checkpoint_every: .*equal to 1, got 0"),
        ("ema=0.99", "ema: expected a section with the keys decay"),
        ("ema={decay: 0.9, warmpu: 1}", "did you mean 'ema.warmup'"),
        ("snapshots_at=3", "snapshots_at: expected a list, got 3"),
    ],
)
def test_a_wrong_key_is_told_in_words(setting: str, words: str) -> None:
    with pytest.raises(SparsifyError, match=words) as told:
        load_config("mnist5k-lenet5", [setting])
    for name in ("Config", "constrained", "instance", "tuple"):
        assert name not in str(told.value)
