"""Two processes in each trainer that has them: one model, one mask, the count that was asked for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.mark.slow
def test_two_processes_train_one_model_to_the_same_bits(tmp_path: Path) -> None:
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "ACCELERATE_USE_CPU": "true",
    }
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integrations.two_processes", str(file)],
            cwd=ROOT,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        told = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(file.exists() for file in files), "\n".join(t[-4000:] for t in told)
    first, second = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    assert first == second
    for trainer, seen in first.items():
        seen: dict[str, Any]
        assert seen["finished"], trainer
        assert seen["nonzeros"] == 79, trainer  # of 792
        assert seen["steps"] == 5 * 3, trainer  # each process sees half of the batches
