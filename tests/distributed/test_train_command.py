"""`sparsify-fx train --nproc N` and torchrun: errors in words, signals, killed processes, other counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.training import ENVIRONMENT, ROOT, outcome
from tests.train.test_resume import assert_same, lines

COMMAND = [sys.executable, "-m", "sparsify_fx", "train", "mnist5k-lenet5"]
SETS = ["method=wr+signin", "sparsity=0.36", "epochs=4", "accumulate=4"]
OPTIONS = ["--set", "device=cpu", "--set", "batch_size=200", "--no-tensorboard"]


def command(runs: Path, processes: int, *sets: str) -> list[str]:
    changes: list[str] = []
    for change in sets:
        changes += ["--set", change]
    count = ["--nproc", str(processes)] if processes > 1 else []
    return [*COMMAND, *OPTIONS, *changes, *count, "--runs", str(runs)]


def started(given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        given,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(given: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        given, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def children(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def wait_for(process: subprocess.Popen[str], runs: Path, epochs: int) -> None:
    """Until so many epochs are on record."""
    while lines(runs) < epochs and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.sweep
def test_what_does_not_fit_is_told_once(tmp_path: Path) -> None:
    done = finished(command(tmp_path, 2, "batch_size=63"))
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "cannot be divided into 2 equal parts" in done.stderr
    assert "set batch_size to 62 or 64" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.sweep
@pytest.mark.slow
def test_torchrun_itself_trains_the_same_run(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own = command(tmp_path, 1, "method=lrr+signin", "epochs=1", "sparsity=0.36")
    done = finished([own[0], *launcher, *own[1:], "--json", "-"])
    assert done.returncode == 0, done.stderr[-2000:]
    # The first process alone shows and writes: there is one document.
    assert json.loads(done.stdout)["epochs"] == 3
    assert len(list(tmp_path.glob("*/result.json"))) == 1
    # Finished: another number of processes has nothing to do.
    again = finished([*own, "--nproc", "3"])
    assert again.returncode == 0, again.stderr[-2000:]


@pytest.mark.sweep
@pytest.mark.slow
def test_saved_by_two_and_gone_on_with_four_and_one(tmp_path: Path) -> None:
    """SIGTERM saves amid an epoch; the end is that of two processes that nothing interrupted, to the bit."""
    runs, undisturbed = tmp_path / "runs", tmp_path / "undisturbed"
    for processes, epochs in ((2, 2), (4, 6)):
        with started(command(runs, processes, *SETS)) as process:
            wait_for(process, runs, epochs)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            told = process.communicate(timeout=120)
        assert process.returncode == 75, told
        assert "SIGTERM: saved after step" in told[0]
    for place, processes in ((runs, 1), (undisturbed, 2)):
        done = finished(command(place, processes, *SETS))
        assert done.returncode == 0, done.stderr[-2000:]
    interrupted, whole = (outcome(place, SETS) for place in (runs, undisturbed))
    assert interrupted["rows"] == whole["rows"]
    for part in ("model", "optimizer", "scheduler"):
        assert_same(interrupted[part], whole[part], part)


@pytest.mark.sweep
@pytest.mark.slow
def test_when_a_process_is_killed_the_others_end_in_words(tmp_path: Path) -> None:
    with started(command(tmp_path, 2, *SETS)) as process:
        wait_for(process, tmp_path, 1)
        ranks = children(process)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        _, told = process.communicate(timeout=150)
    assert process.returncode == 2
    assert "was ended by SIGKILL" in told
    assert "Traceback" not in told
    for rank in ranks:
        assert not Path(f"/proc/{rank}").exists()
    done = finished(command(tmp_path, 2, *SETS))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.sweep
@pytest.mark.slow
def test_an_error_of_ones_own_code_on_one_process_ends_all(tmp_path: Path) -> None:
    plugin = tmp_path / "picky.py"
    plugin.write_text(
        """
import os
from torch import nn
from sparsify_fx.zoo.models import MODELS

class Picky(nn.Sequential):
    calls = 0
    def forward(self, x):
        self.calls += 1
        if self.calls > 12 and os.environ["RANK"] == "1":
            raise ValueError("this image is not to my taste")
        return super().forward(x)

@MODELS.register("picky")
def picky(spec):
    return Picky(nn.Flatten(), nn.Linear(784, spec.num_classes))
"""
    )
    given = command(tmp_path / "runs", 2, *SETS, "model=picky")
    done = finished([*given, "--plugin", str(plugin)])
    assert done.returncode not in (0, None)
    assert "this image is not to my taste" in done.stderr
    assert "another rank left" in done.stderr or done.returncode == 1
