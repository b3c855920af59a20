"""kill -9 in the middle of a real `sparsify-fx train`, the same command again: bit-identical to an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.common import assert_same, outcome

pytestmark = pytest.mark.slow

COMMAND = [
    sys.executable,
    "-c",
    "from sparsify_fx.cli import main; main()",
    "train",
    "mnist5k-lenet5",
    "--quiet",
]
OPTIONS = [
    "--method",
    "wr+signin",
    "--sparsity",
    "0.36",
    "--epochs",
    "4",
    "--device",
    "cpu",
    "--no-tensorboard",
]
SETS = [
    "--set",
    "batch_size=250",
    "--set",
    "augment.crop_padding=2",
    "--set",
    "checkpoint_every=2",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(runs: Path) -> list[str]:
    return [*COMMAND, *OPTIONS, *SETS, "--runs", str(runs)]


def lines(runs: Path) -> int:
    """Epochs that the only run folder has on record."""
    files = list(runs.glob("*/metrics.jsonl"))
    return files[0].read_text().count("\n") if files else 0


def train_and_kill(runs: Path, after: int) -> None:
    """Start the training and kill it as soon as `after` epochs are on record."""
    with subprocess.Popen(
        command(runs), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        while lines(runs) < after and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, told = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    assert not list(runs.glob("*/result.json"))


def test_killed_twice_and_resumed_ends_bit_identical(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(undisturbed), env=ENVIRONMENT, check=True)
    train_and_kill(killed, after=1)  # before the first checkpoint
    train_and_kill(killed, after=7)  # in the second run, after a pruning and a rewind
    subprocess.run(command(killed), env=ENVIRONMENT, check=True)
    weights, state, rows = outcome(next(killed.iterdir()))
    expected_weights, expected_state, expected_rows = outcome(
        next(undisturbed.iterdir())
    )
    assert rows == expected_rows
    assert [row["run"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert_same(state, expected_state)
    assert weights == expected_weights
    assert not list(killed.glob("*/.*.tmp"))
