"""What several processes read is together what one process reads, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Augment, Data, load_data
from sparsify_fx.zoo.data.shares import WHOLE, Share, shared_epoch
from tests.zoo.common import some_digits

SIZE, AUGMENT = 100, Augment(crop_padding=2, flip=True)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("mnist5k")


class Plain:
    """A part as plugins wrote them before there were shares."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data.train)

    def batches(self, batch_size: int, *, train: bool) -> int:
        return self._data.train.batches(batch_size, train=train)

    def epoch(
        self, batch_size: int, *, train: bool, seed: int = 0, epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return self._data.train.epoch(batch_size, train=train, seed=seed, epoch=epoch)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_shares_of_training_batches_make_the_batches(digits: Data, count: int) -> None:
    given = {"train": True, "seed": 3, "epoch": 2, "augment": AUGMENT, "start": 5}
    shares = [
        shared_epoch(digits.train, SIZE, Share(index, count), **given)  # type: ignore[arg-type]
        for index in range(count)
    ]
    whole = list(shared_epoch(digits.train, SIZE, WHOLE, **given))  # type: ignore[arg-type]
    assert len(whole) == len(digits.train) // SIZE - 5
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_test_set_are_its_batches_in_turn(digits: Data, count: int) -> None:
    whole = list(digits.test.epoch(300, train=False))
    for index in range(count):
        share = list(shared_epoch(digits.test, 300, Share(index, count), train=False))
        assert len(share) == len(whole[index::count])
        for (images, labels), part in zip(whole[index::count], share, strict=True):
            assert torch.equal(images, part[0])
            assert torch.equal(labels, part[1])


def test_parts_without_shares_are_cut(digits: Data) -> None:
    plain = Plain(digits)
    for train in (True, False):
        for index in range(2):
            share = Share(index, 2)
            cut = shared_epoch(plain, SIZE, share, train=train)  # type: ignore[arg-type]
            own = shared_epoch(digits.train, SIZE, share, train=train)
            for (images, labels), mine in zip(cut, own, strict=True):
                assert torch.equal(images, mine[0])
                assert torch.equal(labels, mine[1])


def test_processes_decode_their_own_images_alone(digits: Data, tmp_path: Path) -> None:
    images, labels = some_digits(digits, 1)
    for split in ("train", "val"):
        for image, label in zip(images, labels.tolist(), strict=True):
            path = tmp_path / split / f"digit{label}" / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    data = load_data(f"imagefolder:{tmp_path}", image_size=24, limit_bytes=1, workers=0)
    given = {"train": True, "seed": 3, "epoch": 2, "augment": Augment(flip=True)}
    whole = list(data.train.epoch(4, **given))  # type: ignore[arg-type]
    shares = [
        list(shared_epoch(data.train, 4, Share(index, 2), **given))  # type: ignore[arg-type]
        for index in range(2)
    ]
    assert len(whole) == len(shares[0]) == 2
    for (images, _), one, other in zip(whole, *shares, strict=True):
        assert torch.equal(images, torch.cat([one[0], other[0]]))
    tested = list(shared_epoch(data.test, 4, Share(1, 2), train=False))
    assert torch.equal(tested[0][0], list(data.test.epoch(4, train=False))[1][0])


def test_a_batch_that_cannot_be_divided_is_an_error_before_the_first(
    digits: Data,
) -> None:
    with pytest.raises(DataError, match="set batch_size to 48 or 52"):
        shared_epoch(digits.train, 50, Share(0, 4), train=True)
    with pytest.raises(DataError, match="set batch_size to 4, or"):
        shared_epoch(digits.train, 3, Share(0, 4), train=True)
    with pytest.raises(DataError, match="does not exist"):
        Share(2, 2)
