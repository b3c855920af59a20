"""What the Scheduler costs beside the training it drives: docs/results/scheduler_cost.json, quoted in training_loop.md.

    python benchmarks/scheduler_cost.py                # about 3 minutes on one core

resnet20 on CIFAR-sized inputs, batch 128, SGD momentum, method gmp with Sign-In's weights (factors, masks and
rescaling). Processor time of one thread, alternating: a training step (forward, backward, optimizer) and
`scheduler.step()` after it. Steps on which masks change and epochs end (where weights are checked for NaN) are medians
of their own. The training step is measured twice, in halves of the run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.zoo.models import build_model

RESULT = Path(__file__).parents[1] / "docs" / "results" / "scheduler_cost.json"
EPOCHS, STEPS_PER_EPOCH = 8, 20


def kind_of(scheduler: sparsify_fx.Scheduler) -> str:
    """What the next `step()` does."""
    following = scheduler.step_count + 1
    if any(
        event.step == following and event.what == "prune"
        for event in scheduler.timeline().events
    ):
        return "masks change"
    return "epoch ends" if following % STEPS_PER_EPOCH == 0 else "other"


def measure(batch: int) -> dict[str, Any]:
    """Seconds of every step by kind."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model("resnet20", num_classes=10, in_channels=3, image_size=32)
    sparsify_fx.apply(model, "gmp+signin", sparsity=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH
    )
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    seconds: dict[str, list[float]] = defaultdict(list)
    while not scheduler.finished:
        half = "first" if scheduler.step_count * 2 < scheduler.steps else "second"
        kind, start = kind_of(scheduler), time.thread_time()
        (F.cross_entropy(model(x), y) + scheduler.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        middle = time.thread_time()
        scheduler.step()
        seconds[f"training step, {half} half"].append(middle - start)
        seconds[f"scheduler.step(), {kind}"].append(time.thread_time() - middle)
    return dict(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    batch = parser.parse_args().batch
    seconds = measure(batch)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    training = statistics.median(
        [*seconds["training step, first half"], *seconds["training step, second half"]]
    )
    scheduler = [
        value
        for name, values in seconds.items()
        if name.startswith("scheduler")
        for value in values
    ]
    steps = sum(
        len(values) for name, values in seconds.items() if name.startswith("training")
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    result = {
        "command": f"python benchmarks/scheduler_cost.py --batch {batch}",
        "commit": commit.strip(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "medians_in_seconds": medians,
        "usual_step_as_share_of_training": medians["scheduler.step(), other"]
        / training,
        "all_steps_as_share_of_training": sum(scheduler) / steps / training,
        "raw_seconds": seconds,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    medians["all calls of scheduler.step()"] = sum(scheduler) / steps
    for name, value in medians.items():
        print(f"{name:32} {value * 1e3:9.3f} ms  {value / training:8.2%}")


if __name__ == "__main__":
    main()
