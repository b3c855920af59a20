"""Trainings by torchrun's launcher, each with all of its configurations one after the other in one process group.

python -m torch.distributed.run ... -m tests.distributed.training RUNS CONFIGURATIONS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from sparsify_fx.distributed.joining import joined
from sparsify_fx.train import TrainConfig, load_config, train
from sparsify_fx.train.run_folder import run_path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
Overrides = list[str]


def configured(overrides: Overrides, recipe: str = "mnist5k-lenet5") -> TrainConfig:
    """A training of some seconds on real digits."""
    name = "mnist5k-lenet5-bn" if "model=lenet5-bn" in overrides else recipe
    return load_config(name, ["device=cpu", "batch_size=200", *overrides])


def train_on(
    processes: int, runs: Path, configurations: list[Overrides]
) -> list[dict[str, Any]]:
    """Checkpoint and rows of each configuration, trained by so many processes."""
    listed = runs / "configurations.json"
    runs.mkdir(parents=True, exist_ok=True)
    listed.write_text(json.dumps(configurations), encoding="utf-8")
    launcher = [
        *("-m", "torch.distributed.run", "--standalone"),
        f"--nproc-per-node={processes}",
    ]
    command = [sys.executable, *(launcher if processes > 1 else [])]
    command += ["-m", "tests.distributed.training", str(runs), str(listed)]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [outcome(runs, overrides) for overrides in configurations]


def outcome(runs: Path, overrides: Overrides) -> dict[str, Any]:
    """What a run left: its checkpoint, with rows without the seconds, and its folder."""
    folder = run_path(runs, configured(overrides))
    rows = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    for row in rows:
        row |= {"seconds": 0, "checkpoint_seconds": 0}
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {"folder": folder, "rows": rows, **state}


def main(runs: str, listed: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with joined("cpu"):
        for overrides in json.loads(Path(listed).read_text(encoding="utf-8")):
            train(
                configured(overrides), runs_dir=runs, progress=False, tensorboard=False
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
