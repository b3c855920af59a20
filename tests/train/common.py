"""Small data of one's own, and trainings on them that take a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
