"""Signals to a training of two processes, started by torchrun's launcher: all save, or all end in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparsify_fx.train.run_folder import RunFolder
from tests.common import swept
from tests.train.common import write_images

pytestmark = pytest.mark.slow

SLOW = """
import time
from torch import nn
from sparsify_fx.zoo.models.spec import MODELS

class Slow(nn.Module):
    def forward(self, x):
        if self.training:
            print("step", flush=True)
            time.sleep(0.1)
        return x

@MODELS.register("slow")
def slow(spec):
    size = spec.in_channels * spec.image_size**2
    return nn.Sequential(nn.Flatten(), Slow(), nn.Linear(size, spec.num_classes))
"""


def disturbed(folder: Path, number: signal.Signals, rank: bool) -> tuple[int, str]:
    """(exit code, what was said) of a training whose launcher, or a rank, gets a signal after its first step."""
    data = write_images(folder / "mine.npz", count=200)
    (folder / "slow.py").write_text(SLOW)
    keys = ["model=slow", "epochs=50", "batch_size=16", f"data=npz:{data}"]
    sets = [part for key in (*keys, "method=random") for part in ("--set", key)]
    command = [sys.executable, "-m", "sparsify_fx", "train", "mnist5k-lenet5", *sets]
    where = ["--runs", str(folder / "runs"), "--plugin", str(folder / "slow.py")]
    how = ["--device", "cpu", "--nproc", "2", "--quiet", "--no-tensorboard"]
    with subprocess.Popen(
        [*command, *where, *how],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() not in ("step", "stepstep"):
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        ranks = [int(child) for child in children.read_text().split()]
        assert len(ranks) == 2
        os.kill(ranks[1] if rank else process.pid, number)
        said, _ = process.communicate(timeout=100)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    return process.returncode, said


@pytest.mark.sweep
@pytest.mark.parametrize("rank", [False, *swept([True])])
def test_all_save_when_one_is_asked(tmp_path: Path, rank: bool) -> None:
    code, said = disturbed(tmp_path, signal.SIGUSR1, rank)
    assert code == 75, said
    assert said.count("SIGUSR1: saved after step") == 1
    state = RunFolder(next((tmp_path / "runs").iterdir())).checkpoint()
    assert state is not None
    assert state["within"]["totals"][2] == 16 * state["within"]["step"]


def test_a_killed_rank_ends_all_in_words(tmp_path: Path) -> None:
    code, said = disturbed(tmp_path, signal.SIGKILL, rank=True)
    assert code == 2, said
    assert "another rank left in the middle of training" in said
    assert "rank 1 was ended by SIGKILL" in said
    assert "Traceback" not in said
