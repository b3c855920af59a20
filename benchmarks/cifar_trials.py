"""The trainings of `benchmarks.cifar_comparison`: which there are, and the command of each.

One setting for all: ResNet-20 on all images of CIFAR-10, 12 epochs (6 in each of five cycles), batches of 128, SGD
with a triangular curve of rates that peaks at 0.1 after a sixth of them. An epoch takes two minutes of one core
(sparse) to four and a half (dense): about 37 hours in all, 18 on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCHS = 12
"""Of a training without cycles."""
CYCLE_EPOCHS = 6
SEEDS = (0, 1, 2)
SPARSITIES = (0.9, 0.95)
KEEP = 0.05**0.25
"""The share of the weights that stay in each of the four prunings to 0.95; the third ends at 0.894."""


@dataclass(frozen=True)
class Trial:
    """One training. `question`: what it is compared for; `settings`: what differs from the recipe, by key."""

    question: str
    method: str
    sparsity: float
    seed: int
    recipe: str = "cifar10-resnet20"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.method}, {self.sparsity:g}, seed {self.seed}"

    def command(self, data: Path, runs: Path) -> list[str]:
        """What follows `python -m sparsify_fx`."""
        command = ["train", self.recipe, "--method", self.method]
        command += ["--sparsity", f"{self.sparsity:g}", "--seed", str(self.seed)]
        command += ["--data", f"npz:{data.resolve()}", "--runs", str(runs)]
        for key, value in {**_common(EPOCHS), **self.settings}.items():
            command += ["--set", f"{key}={value}"]
        return command


def trials() -> Iterator[Trial]:
    """All of them, one question after the other, so that what is done first has all its seeds."""
    for sparsity in SPARSITIES:
        for seed in SEEDS:
            yield from _at_init(sparsity, seed)
    for seed in SEEDS:
        yield from _cycles(seed)
    for sparsity in reversed(SPARSITIES):
        for seed in SEEDS:
            yield from _penalties(sparsity, seed)


def _common(epochs: int) -> dict[str, Any]:
    return {
        "batch_size": 128,
        "epochs": epochs,
        "device": "cpu",
        "compile": "false",
        "optimizer.lr": 0.1,
        "learning_rate.warmup": epochs // 6,
    }


def _at_init(sparsity: float, seed: int) -> Iterator[Trial]:
    """The same random mask, without and with Sign-In."""
    kernels = {"kernels": "always"}
    yield Trial("signs", "random", sparsity, seed, settings=kernels)
    yield Trial(
        "signs",
        "signin",
        sparsity,
        seed,
        "cifar10-resnet20-signin",
        {**kernels, "axes.actions.until": 0.5},
    )


def _penalties(sparsity: float, seed: int) -> Iterator[Trial]:
    """Dense until the pruning after five sixths, so that sparse kernels have nothing to do before."""
    for method in ("pilot", "spred", "str", "l1"):
        yield Trial("penalties", method, sparsity, seed)


def _cycles(seed: int) -> Iterator[Trial]:
    settings = {
        **_common(CYCLE_EPOCHS),
        "kernels": "auto",
        "axes.schedule.name": "cycles",
        "axes.schedule.keep": KEEP,
    }
    for method in ("lrr", "wr"):
        yield Trial("rewinding", method, SPARSITIES[-1], seed, settings=settings)
