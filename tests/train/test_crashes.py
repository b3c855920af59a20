"""What may befall a training after hours: each ends in one line that says what to do, and the folder stays good."""

from __future__ import annotations

import builtins
import errno
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify_fx.cli.output import Output
from sparsify_fx.errors import (
    CheckpointError,
    ConfigError,
    SparsifyError,
    TrainingError,
)
from sparsify_fx.train import load_config, train
from sparsify_fx.train.epoch import EpochRow
from sparsify_fx.train.log import Log, _tensorboard
from sparsify_fx.train.run_folder import RunFolder, open_folder
from tests.train.common import SMALL, quietly, small, write_images

pytestmark = pytest.mark.slow

COMMAND = [
    sys.executable,
    "-c",
    "from sparsify_fx.cli import main; main()",
    "train",
    "mnist5k-lenet5",
    "--quiet",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "mine.npz")


def command(data: Path, runs: Path, *options: str) -> list[str]:
    sets = [
        part
        for override in (*SMALL, f"data=npz:{data}")
        for part in ("--set", override)
    ]
    return [*COMMAND, *sets, "--runs", str(runs), "--no-tensorboard", *options]


def one_line(told: str) -> str:
    """What a command said, which is one line in plain words."""
    lines = told.strip().splitlines()
    assert len(lines) == 1, told
    assert lines[0].startswith("error: ")
    return lines[0]


# ---------------------------------------------------------------------- no space


def small_files(most: int) -> Callable[[], None]:
    """Let a process write no file beyond `most` bytes: an error in the middle of a real write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.sweep
def test_a_disk_that_takes_no_checkpoint(data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = subprocess.run(
        command(data, runs),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files(200_000),
    )
    assert done.returncode == 2
    told = one_line(done.stderr)
    assert "checkpoint.pt" in told
    assert "free some space, then the same command goes on" in told
    (folder,) = runs.iterdir()
    assert not list(folder.glob(".*.tmp"))
    assert not (folder / "checkpoint.pt").exists()
    assert subprocess.run(command(data, runs), check=False).returncode == 0


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.append({"epoch": 2}),
        lambda folder: folder.cut_metrics(1),
        lambda folder: folder.write_data({"digest": "ab"}),
        lambda folder: folder.write_config(load_config("mnist5k-lenet5")),
        lambda folder: folder.save_checkpoint({"a": torch.ones(3)}),
        lambda folder: folder.save_state("epoch-1.safetensors", {"a": torch.ones(3)}),
        lambda folder: folder.finish({"a": torch.ones(3)}, {}),
    ],
)
def test_a_full_disk_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[RunFolder], None]
) -> None:
    with open_folder(tmp_path / "run") as folder:
        folder.append({"epoch": 1})
        for name in ("checkpoint.pt", "epoch-1.safetensors", "config.yaml"):
            (folder.path / name).write_bytes(b"old")
        monkeypatch.setattr("os.fsync", no_space)
        with pytest.raises(
            CheckpointError,
            match=r"cannot write .*No space left on device; free some space",
        ):
            write(folder)
        monkeypatch.undo()
        for name in ("checkpoint.pt", "epoch-1.safetensors", "config.yaml"):
            assert (folder.path / name).read_bytes() == b"old"
        assert folder.metrics()[0] == {"epoch": 1}
        assert not list(folder.path.glob(".*.tmp"))


def test_a_device_that_is_always_full(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        (folder.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(CheckpointError, match="No space left on device"):
            folder.append({"epoch": 1})


def test_other_reasons_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with open_folder(tmp_path / "run") as folder:
        monkeypatch.setattr("os.replace", read_only)
        with pytest.raises(
            CheckpointError,
            match="Read-only file system; fix that, then the same command goes on",
        ):
            folder.save_checkpoint({"a": 1})


class _Writer:
    """TensorBoard's writer on a full disk."""

    add_scalar = close = no_space


def test_tensorboard_on_a_full_disk_does_not_end_a_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = asdict(EpochRow(3, 0, 0.5, 0.5, None, 1.0, 10, 0.1, 1.0))
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        log = Log(None, _Writer(), 0, 10)
        log.row(row)
        log.row(row)
    assert caplog.messages == [
        "TensorBoard's records end before epoch 3: [Errno 28] No space left on device"
    ]


# ---------------------------------------------------------------------- a folder that goes away


@pytest.mark.sweep
def test_a_removed_folder_in_a_real_training(data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with subprocess.Popen(
        command(data, runs, "--epochs", "5000"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(runs.glob("*/checkpoint.pt")) and process.poll() is None:
            time.sleep(0.01)
        for _ in range(100):  # a file may be written while it is removed
            shutil.rmtree(runs, ignore_errors=True)
            if not runs.exists():
                break
        _, told = process.communicate(timeout=120)
    assert process.returncode == 2, told
    assert (
        "was removed while it was trained in; the same command starts afresh"
        in one_line(told)
    )


def test_every_file_of_a_removed_folder(tmp_path: Path) -> None:
    with open_folder(tmp_path / "run") as folder:
        shutil.rmtree(folder.path)
        for write in (
            lambda: folder.append({"epoch": 1}),
            lambda: folder.save_checkpoint({}),
            lambda: folder.save_state("epoch-1.safetensors", {}),
            lambda: folder.finish({}, {}),
        ):
            with pytest.raises(
                CheckpointError, match="was removed while it was trained in"
            ):
                write()
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- what killed runs leave


def test_leftovers_go_at_the_next_start_but_not_under_another_process(
    data: Path, tmp_path: Path
) -> None:
    config = small(data, "method=random")
    path = quietly(config, tmp_path / "runs").path
    (path / "result.json").unlink()
    leftovers = [
        path / f".{name}.x7_k2.tmp"
        for name in ("checkpoint.pt", "cycle-1.safetensors", "result.json")
    ]
    for file in leftovers:
        file.write_bytes(b"half")
    with open_folder(path):
        pass
    assert not any(file.exists() for file in leftovers)
    with open_folder(path):
        leftovers[0].write_bytes(b"being written")
        with pytest.raises(CheckpointError, match="another process"), open_folder(path):
            pass
        assert leftovers[0].exists()
    quietly(config, tmp_path / "runs")
    assert not leftovers[0].exists()


# ---------------------------------------------------------------------- trainings that diverge


@pytest.mark.parametrize("method", ["dense", "random", "gmp", "signin", "spred"])
def test_a_training_that_diverges_is_told_also_without_events(
    data: Path, tmp_path: Path, method: str
) -> None:
    config = small(
        data, f"method={method}", "optimizer.lr=1.0e+30", "learning_rate.warmup=0"
    )
    with pytest.raises(TrainingError, match="diverged"):
        quietly(config, tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "result.json").exists()
    assert not list(folder.glob("*.safetensors"))


# ---------------------------------------------------------------------- a folder that is not one


@pytest.mark.parametrize(
    "text", ["", "[]", "a: b", "model: [", "model: \x00", "epochs: 1\nepochs: 2\n"]
)
def test_a_damaged_config_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SparsifyError, match=r"config\.yaml"):
        train(load_config(tmp_path / "config.yaml"), runs_dir=tmp_path, progress=False)


def test_a_donor_with_a_damaged_config_is_told(data: Path, tmp_path: Path) -> None:
    there = quietly(
        small(data, "method=lrr", "save_cycles=true"), tmp_path / "runs"
    ).path
    (there / "config.yaml").write_text("model: [")
    with pytest.raises(SparsifyError, match=r"config\.yaml is not valid YAML"):
        quietly(
            small(data, "method=random", f"init_from.run={there}"), tmp_path / "runs"
        )


def test_a_json_document_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    output = Output(str(tmp_path / "folder" / "result.json"))
    (tmp_path / "folder").rmdir()
    with pytest.raises(
        ConfigError, match=r"--json .*result\.json cannot be written: No such file"
    ):
        output.finish({})


def test_a_tensorboard_that_does_not_fit_its_protobuf_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str, *given: Any, **named: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise RuntimeError("gencode 6.31.1 runtime 5.29.6")
        return whole(name, *given, **named)

    whole = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with caplog.at_level(logging.WARNING, "sparsify_fx"):
        assert _tensorboard(tmp_path, 0) is None
    assert "runtime 5.29.6" in caplog.text
    assert not list(tmp_path.iterdir())
