"""Splits, batches that depend on (seed, epoch) alone, augmentation."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Augment, Data, TensorSource, load_data
from sparsify_fx.zoo.data.augment import crop, draw, flip
from sparsify_fx.zoo.data.batching import mix_seed
from sparsify_fx.zoo.data.normalize import Normalizer
from tests.zoo.common import Batches, same, tensors

CPU = torch.device("cpu")


def test_mnist5k_is_split_by_class(mnist: Data) -> None:
    assert (mnist.name, mnist.num_classes, mnist.in_channels, mnist.image_size) == (
        "mnist5k",
        10,
        1,
        28,
    )
    assert (
        (len(mnist.train), len(mnist.test))
        == (4000, 1000)
        == (mnist.facts.train_size, mnist.facts.test_size)
    )
    assert tensors(mnist.train)[1].bincount().tolist() == [400] * 10
    assert tensors(mnist.test)[1].bincount().tolist() == [100] * 10
    assert mnist.class_names == tuple("0123456789")


def test_some_of_the_digits_are_as_many_of_each_class(mnist: Data) -> None:
    some = load_data("mnist5k:500")
    assert (some.name, len(some.train), len(some.test)) == ("mnist5k:500", 400, 100)
    assert tensors(some.train)[1].bincount().tolist() == [40] * 10
    assert tensors(some.test)[1].bincount().tolist() == [10] * 10
    assert torch.equal(tensors(some.train)[0], tensors(mnist.train)[0][::10])
    assert some.digest != mnist.digest


def test_batches_are_normalized_by_the_training_images(mnist: Data) -> None:
    ((x, y),) = mnist.epoch(4000, train=True)
    assert (x.dtype, y.dtype, x.is_contiguous()) == (torch.float32, torch.int64, True)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(unbiased=False)) - 1) < 1e-5
    pixels = tensors(mnist.train)[0].double() / 255
    assert mnist.mean == pytest.approx([float(pixels.mean())], abs=1e-9)
    assert mnist.std == pytest.approx([float(pixels.std(unbiased=False))], abs=1e-9)


def test_a_channel_of_one_value_stays_finite() -> None:
    images = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    ((x, _),) = TensorSource(
        images, torch.tensor([0, 1]), Normalizer.of(images), CPU
    ).epoch(2, train=False)
    assert x.abs().max() < 1e-5


def test_training_drops_the_incomplete_batch_and_evaluation_keeps_it(
    mnist: Data,
) -> None:
    assert (mnist.train.batches(128, train=True), mnist.steps_per_epoch(128)) == (
        31,
        31,
    )
    assert [len(y) for _, y in mnist.train.epoch(128, train=True)] == [128] * 31
    assert [len(y) for _, y in mnist.test.epoch(300, train=False)] == [
        300,
        300,
        300,
        100,
    ]
    assert torch.equal(
        torch.cat([y for _, y in mnist.epoch(300, train=False)]), tensors(mnist.test)[1]
    )


def test_an_epoch_is_a_function_of_seed_and_epoch(mnist: Data) -> None:
    augment = Augment(crop_padding=2, flip=True)

    def epoch(seed: int, number: int) -> Batches:
        return list(
            mnist.train.epoch(
                1000, train=True, seed=seed, epoch=number, augment=augment
            )
        )

    first = epoch(3, 5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert same(first, epoch(3, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not any(
        torch.equal(first[0][1], epoch(*other)[0][1])
        for other in [(3, 6), (4, 5), (5, 3)]
    )


def test_an_epoch_from_its_middle_on_has_the_same_batches(mnist: Data) -> None:
    asked: dict[str, Any] = {
        "train": True,
        "seed": 3,
        "epoch": 5,
        "augment": Augment(2, True),
    }
    whole = list(mnist.epoch(1000, **asked))
    for start in range(5):
        assert same(whole[start:], list(mnist.epoch(1000, **asked, start=start)))


def test_a_shuffled_epoch_holds_every_image_once(mnist: Data) -> None:
    labels = torch.cat([y for _, y in mnist.train.epoch(500, train=True, seed=1)])
    assert labels.bincount().tolist() == [400] * 10


def test_evaluation_is_never_augmented(mnist: Data) -> None:
    plain = list(mnist.test.epoch(500, train=False))
    assert same(
        plain,
        list(
            mnist.test.epoch(
                500, train=False, seed=4, epoch=2, augment=Augment(4, True)
            )
        ),
    )


def test_mixed_seeds_are_fixed_and_differ() -> None:
    digest = hashlib.blake2b(b"shuffle:0:1:0", digest_size=8).digest()
    assert mix_seed(0, 1, "shuffle") == int.from_bytes(digest, "big")
    seeds = {
        mix_seed(s, e, p, i)
        for s in range(4)
        for e in range(4)
        for p in ("shuffle", "augment")
        for i in range(4)
    }
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 128


def test_augmentation_equals_a_loop_over_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8
    )
    drawn = draw(Augment(3, flip=True), 60, seed=1, epoch=2, device=CPU)
    fast = drawn.apply(images, start=20)
    for i, image in enumerate(images):
        canvas = np.zeros((3, 14, 14), np.uint8)
        canvas[:, 3:11, 3:11] = image.numpy()
        top, left = int(drawn.tops[20 + i]), int(drawn.lefts[20 + i])
        slow = canvas[:, top : top + 8, left : left + 8]
        slow = slow[:, :, ::-1] if drawn.mirrored[20 + i] else slow
        assert np.array_equal(fast[i].numpy(), slow)
    assert fast.is_contiguous()


def test_every_offset_is_drawn_and_half_are_mirrored() -> None:
    drawn = draw(Augment(4, flip=True), 10_000, seed=0, epoch=0, device=CPU)
    for offsets in (drawn.tops, drawn.lefts):
        counts = offsets.bincount()
        assert len(counts) == 9
        assert counts.min() > 0.8 * 10_000 / 9
    assert 0.47 < float(drawn.mirrored.float().mean()) < 0.53
    assert (
        abs(float(torch.corrcoef(torch.stack([drawn.tops, drawn.lefts]).float())[0, 1]))
        < 0.05
    )


def test_augment_without_crop_or_flip_changes_nothing() -> None:
    images = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    assert torch.equal(
        draw(Augment(), 3, seed=0, epoch=0, device=CPU).apply(images, 0), images
    )
    middle = torch.full((3,), 2)
    assert torch.equal(crop(images, middle, middle, 2), images)
    assert torch.equal(flip(images, torch.ones(3, dtype=torch.bool)), images.flip(3))


def test_resizing(mnist: Data) -> None:
    larger = load_data("mnist5k", image_size=32)
    assert (larger.image_size, tensors(larger.test)[0].shape) == (32, (1000, 1, 32, 32))
    assert larger.mean == pytest.approx(mnist.mean, abs=0.01)
    with pytest.raises(
        DataError,
        match="4000 images of 64x64 take 16,384,000 bytes, above limit_bytes=1,000",
    ):
        load_data("mnist5k", image_size=64, limit_bytes=1000)
