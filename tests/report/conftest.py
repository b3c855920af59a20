"""Short real runs on the digits that reports are made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparsify_fx.train import load_config, train


def trained(method: str, runs: Path, seed: int = 0) -> Path:
    """The folder of a run of two epochs."""
    values = {
        "device": "cpu",
        "method": method,
        "sparsity": 0.5,
        "epochs": 2,
        "batch_size": 500,
        "model": "lenet300",
        "seed": seed,
        "snapshots_at": [0, 1, 2],
    }
    config = load_config("mnist5k-lenet5", values=values)
    return train(config, runs_dir=runs, progress=False, tensorboard=False).path


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sign-In twice and a mask at random, finished; and one that was killed before its end."""
    folder = tmp_path_factory.mktemp("runs")
    found = {
        "signin": trained("signin", folder),
        "signin-1": trained("signin", folder, seed=1),
        "random": trained("random", folder),
    }
    found["unfinished"] = folder / "unfinished"
    shutil.copytree(found["random"], found["unfinished"])
    for name in ("result.json", "model.safetensors"):
        (found["unfinished"] / name).unlink()
    return found
