"""Data as their authors publish them: MNIST's files, and Tiny ImageNet's folders."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Data, data_digest, load_data
from tests.zoo.common import some_digits, tensors

WNIDS = ("n02124075", "n01443537", "n04067472")


@pytest.fixture
def tiny(mnist: Data, tmp_path: Path) -> Path:
    """Real digits 0, 1 and 2 in Tiny ImageNet's layout, two to train on and one to validate each."""
    images, labels = some_digits(mnist, 3)
    lines = []
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if label > 2:
            continue
        name, wnid = f"val_{index}.JPEG", WNIDS[label]
        folder = tmp_path / ("val/images" if index % 3 == 2 else f"train/{wnid}/images")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).convert("RGB").save(folder / name)
        if index % 3 == 2:
            lines.append(f"{name}\t{wnid}\t0\t3\t27\t27\n")
    (tmp_path / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (tmp_path / "test" / "images").mkdir(parents=True)
    return tmp_path


def test_tiny_imagenet_as_published(tiny: Path) -> None:
    data = load_data(f"imagefolder:{tiny}")
    assert data.class_names == tuple(sorted(WNIDS))
    assert (len(data.train), len(data.test), data.image_size) == (6, 3, 28)
    # Digit 1 has the first class by name, digit 0 the second.
    assert tensors(data.test)[1].tolist() == [0, 1, 2]
    ink = tensors(data.test)[0].float().mean((1, 2, 3))
    assert ink.argmin() == 0
    streamed = load_data(f"imagefolder:{tiny}", image_size=24, limit_bytes=1, workers=0)
    assert [y.tolist() for _, y in streamed.test.epoch(2, train=False)] == [[0, 1], [2]]


def test_its_labels_are_in_the_digest(tiny: Path) -> None:
    spec, table = f"imagefolder:{tiny}", tiny / "val" / "val_annotations.txt"
    before = data_digest(spec)
    assert before == load_data(spec).digest
    text = table.read_text()
    table.write_text(text.replace(WNIDS[0], WNIDS[1]))
    assert data_digest(spec) != before


def test_malformed_tiny_imagenet(tiny: Path) -> None:
    spec, table = f"imagefolder:{tiny}", tiny / "val" / "val_annotations.txt"
    text = table.read_text()
    for wrong in ("no tab\n", "a.JPEG\tn99999999\t0\n"):
        table.write_text(text + wrong)
        with pytest.raises(DataError, match="line 4: expected a file and one of"):
            load_data(spec)
    table.write_text(text.replace("val_", "gone_"))
    with pytest.raises(DataError, match="cannot be read"):
        load_data(spec)
    table.write_text("")
    with pytest.raises(DataError, match="lists no images"):
        load_data(spec)
    (tiny / "wnids.txt").write_text("n02124075\n")
    with pytest.raises(
        DataError, match="must name the same classes; only one has n014"
    ):
        load_data(spec)


def idx(path: Path, values: Tensor) -> None:
    """A file of the format that MNIST is published in: type and axes, sides, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    path.write_bytes(head + values.to(torch.uint8).numpy().tobytes())


def test_mnist_from_its_four_files(mnist: Data, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    images, labels = some_digits(mnist, 5)
    for name in ("train", "t10k"):
        idx(raw / f"{name}-images-idx3-ubyte", images[:, 0])
        idx(raw / f"{name}-labels-idx1-ubyte", labels)
    data = load_data("mnist", root=tmp_path, download=False)
    assert torch.equal(tensors(data.train)[0], images)
    assert torch.equal(tensors(data.test)[1], labels)
    assert (data.num_classes, data.image_size, len(data.digest)) == (10, 28, 32)


def test_mnist_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mnist is not in .*; train with it, which"):
        load_data("mnist", root=tmp_path, download=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"could not be downloaded .* or use mnist5k"):
        load_data("mnist", root=tmp_path / "file")
