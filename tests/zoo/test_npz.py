"""Data in NumPy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsify_fx.errors import DataError
from sparsify_fx.zoo.data import Data, load_data
from tests.zoo.common import some_digits, tensors


def test_npz_folder_and_file_round_trip(mnist: Data, tmp_path: Path) -> None:
    images, labels = some_digits(mnist, 5)
    arrays: dict[str, Any] = {
        "images": images[:, 0].numpy(),
        "labels": labels.numpy(),
        "classes": np.array(list("abcdefghij")),
    }
    for name in ("train", "test", "all"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    folder, file = (
        load_data(f"npz:{tmp_path}"),
        load_data(f"npz:{tmp_path / 'all.npz'}"),
    )
    assert torch.equal(tensors(folder.train)[0], images)
    assert torch.equal(tensors(folder.test)[1], labels)
    assert folder.class_names == tuple("abcdefghij")
    assert torch.equal(tensors(file.test)[0], images[4::5])
    assert tensors(file.train)[1].tolist() == [
        digit for digit in range(10) for _ in range(4)
    ]


def test_npz_colour_images_are_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), np.uint8)
    np.savez(
        tmp_path / "a.npz", images=images, labels=np.repeat([0, 2], 5).astype(np.uint8)
    )
    data = load_data(f"npz:{tmp_path / 'a.npz'}")
    assert (data.num_classes, data.in_channels, data.class_names) == (3, 3, None)
    assert np.array_equal(
        tensors(data.test)[0].numpy(), images[4::5].transpose(0, 3, 1, 2)
    )


GOOD: dict[str, Any] = {
    "images": np.zeros((10, 4, 4, 3), np.uint8),
    "labels": np.repeat([0, 1], 5),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "lacks images, it has"),
        ({"images": np.zeros((10, 4, 4, 3), np.float32)}, "images are float32"),
        ({"images": np.zeros((10, 4), np.uint8)}, r"images are uint8 \[10, 4\]"),
        (
            {"images": np.zeros((0, 4, 4, 3), np.uint8)},
            r"images are uint8 \[0, 4, 4, 3\]",
        ),
        (
            {"images": np.zeros((10, 3, 4, 4), np.uint8)},
            "images are 3x4 .* crop or pad",
        ),
        ({"labels": np.zeros(9, np.int64)}, "10 images but 9 labels"),
        ({"labels": np.zeros((10, 1), np.int64)}, r"labels are int64 \[10, 1\]"),
        ({"labels": np.linspace(0, 1, 10)}, "labels are float64"),
        ({"labels": np.repeat([-1, 1], 5)}, "labels run from -1 to 1"),
        ({"labels": np.arange(10)}, "no class has five images"),
        (
            {"labels": np.array(["a"] * 10, dtype=object)},
            "cannot be read .* without pickles",
        ),
        ({"classes": np.array(["only"])}, "labels run from 0 to 1; expected 0 to 0"),
        ({"classes": np.array([1, 2])}, "classes are int64"),
    ],
)
def test_malformed_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {
        name: array for name, array in {**GOOD, **change}.items() if array is not None
    }
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
        (
            {"images": np.zeros((10, 4, 4), np.uint8)},
            r"training images are \[4, 4, 3\] but test images \[4, 4, 1\]",
        ),
        ({"classes": np.array(["a", "c"])}, "list different `classes`"),
    ],
)
def test_npz_parts_must_agree(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "train.npz", **GOOD, classes=np.array(["a", "b"]))
    np.savez(tmp_path / "test.npz", **{**GOOD, **change})
    with pytest.raises(DataError, match=message):
        load_data(f"npz:{tmp_path}")
