"""What it costs that a computed weight refuses writes: docs/results/read_cost.json, quoted in any_model.md.

    python benchmarks/read_cost.py                # about a minute on one core

resnet20 on CIFAR-sized inputs, batch 128, signin. Reads within a forward, with and without the check that a write would
meet outside of it, alternating in one run: medians of training steps, and of 2000 reads of a weight of 16 entries.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.programs import owners
from sparsify_fx.zoo.models import build_model

RESULT = Path(__file__).parents[1] / "docs" / "results" / "read_cost.json"
CHECKED = owners.as_read


def unchecked(weight: Tensor, owner: nn.Module, tensor: str) -> Tensor:
    """What a read was before."""
    return weight


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


class Reader(nn.Linear):
    """A layer whose forward does nothing but read its weight."""

    def forward(self, times: int) -> float:
        """Seconds of one read."""
        started = time.perf_counter()
        for _ in range(times):
            self.weight  # noqa: B018
        return (time.perf_counter() - started) / times


def alternating(measure: Callable[[], float], rounds: int) -> dict[str, float]:
    """Medians with and without the check."""
    taken: dict[str, list[float]] = {"checked": [], "unchecked": []}
    for _ in range(rounds):
        for name, read in (("checked", CHECKED), ("unchecked", unchecked)):
            owners.as_read = read
            taken[name].append(measure())
    owners.as_read = CHECKED
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model("resnet20", num_classes=10, in_channels=3, image_size=32)
    sparsify_fx.apply(model, "signin", sparsity=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, labels = (
        torch.randn(chosen.batch, 3, 32, 32),
        torch.randint(0, 10, (chosen.batch,)),
    )
    step(model, optimizer, inputs, labels)
    reader = sparsify_fx.apply(Reader(4, 4), "signin", sparsity=0.5)
    result = {
        "step, s": alternating(
            lambda: step(model, optimizer, inputs, labels), chosen.steps
        ),
        "one read of a 4 x 4 weight, s": alternating(lambda: float(reader(2000)), 9),
        "reads in a step": len(list(owners.owners(model))),
    }
    reads = result["one read of a 4 x 4 weight, s"]
    share = (
        (reads["checked"] - reads["unchecked"])
        * result["reads in a step"]
        / result["step, s"]["unchecked"]
    )
    machine = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(result | {"share of a step": share} | machine, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
