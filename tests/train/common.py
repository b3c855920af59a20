"""Small data of one's own, and trainings on them that take a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsify_fx.train import Result, TrainConfig, load_config, train

SMALL = [
    "model=lenet300",
    "epochs=2",
    "batch_size=20",
    "device=cpu",
    "sparsity=0.5",
    "optimizer.lr=0.02",
]


def write_images(
    path: Path, *, shift: int = 0, count: int = 100, side: int = 16
) -> Path:
    """An .npz of gray images of four classes, which brightness tells apart; `shift` makes other ones."""
    numbers, labels = np.random.default_rng(7), np.arange(count) % 4
    noise = numbers.integers(0, 60, (count, side, side))
    images = (noise + 40 * ((labels + shift) % 4)[:, None, None]).astype(np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


def small(data: Path, *overrides: str, recipe: str = "mnist5k-lenet5") -> TrainConfig:
    """A configuration on such data."""
    return load_config(recipe, [*SMALL, f"data=npz:{data}", *overrides])


def quietly(config: TrainConfig, runs: Path, force: bool = False) -> Result:
    """Train without showing anything."""
    return train(config, runs_dir=runs, force=force, progress=False, tensorboard=False)


def outcome(folder: Path) -> tuple[bytes, dict[str, Any], list[dict[str, Any]]]:
    """Merged weights, checkpoint, and metrics without the seconds, which no two runs share."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    rows = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return (
        (folder / "model.safetensors").read_bytes(),
        state,
        [{**row, "seconds": 0, "checkpoint_seconds": 0} for row in rows],
    )


def assert_same(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Bit for bit, through all levels."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    else:
        assert a == b, where
