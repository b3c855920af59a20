"""Sweeps over small data, and the command that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import fresh
from tests.train.common import write_images

SET = {
    "model": "lenet300",
    "epochs": 1,
    "batch_size": 20,
    "device": "cpu",
    "optimizer.lr": 0.02,
}
COMMAND = [sys.executable, "-m", "sparsify_fx"]
ROOT = Path(__file__).parents[2]


def write_sweep(folder: Path, name: str = "small", **content: Any) -> Path:
    """A sweep's file; its trials take a fraction of a second."""
    data = folder / "mine.npz"
    if not data.exists():
        write_images(data)
    whole = {
        "recipe": "mnist5k-lenet5",
        "sparsity": 0.36,
        **content,
        "set": {**SET, "data": f"npz:{data}", **content.get("set", {})},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def start(*arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    """The command line, as the leader of a group of processes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command line."""
    done = fresh.run_fresh(fresh.COMMAND, *arguments, folder=folder)
    return done.returncode, done.stdout, done.stderr
