"""What FSDP2 sends for sparse trainings, and what checkpoints cost: docs/results/sharded.md and .json.

    python -m benchmarks.sharded          # a minute on two cores
    python -m benchmarks.sharded --page   # only write the page from the results again

Two gloo processes on one machine: bytes are what any network would carry, times are those of this machine's disk and
memory. The processes share its cores, so a step of two says nothing about a cluster, and none is timed here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sparsify_fx
from benchmarks.training_cases import machine, table, write
from benchmarks.training_cases import read as known
from sparsify_fx.distributed import save_checkpoint
from sparsify_fx.training_cost.surroundings import surroundings

NAME, WIDTH, DEPTH, RANKS, ROUNDS = "sharded", 1024, 4, 2, 5
TRAININGS = {
    "dense": ("dense", "auto"),
    "gmp": ("gmp", "auto"),
    "Sign-In, whole factors": ("signin", "full"),
    "Sign-In, living entries": ("signin", "auto"),
}


class Traffic(TorchDispatchMode):
    """Counts the bytes that collective calls write, which is what a process receives and what it has itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        # Of torch's operators around a call some only wait, or wrap its result.
        sends = any(word in str(func) for word in ("gather", "scatter", "reduce"))
        if func.namespace in ("c10d", "_c10d_functional") and sends:
            # Inputs and outputs are both among the arguments; the larger side is the gathered or scattered whole.
            sizes = [
                t.numel() * t.element_size()
                for t in tree_leaves((args, found))
                if isinstance(t, torch.Tensor)
            ]
            self.bytes += max(sizes, default=0)
        return found


class Training:
    """A multilayer perceptron, each layer of which is a unit of FSDP."""

    def __init__(self, method: str, storage: str) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)]
        self.model = sparsify_fx.apply(
            nn.Sequential(*layers), method, sparsity=0.9, storage=storage
        )
        for layer in self.model:
            fully_shard(layer)
        fully_shard(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.scheduler = sparsify_fx.Scheduler(
            self.model, self.optimizer, epochs=8, steps_per_epoch=4
        )
        self.inputs = torch.randn(16, WIDTH)

    def step(self) -> tuple[int, int]:
        """Bytes of forward, backward and optimizer, and of the Scheduler."""
        with Traffic() as training:
            self.optimizer.zero_grad()
            self.model(self.inputs).square().mean().backward()
            self.optimizer.step()
        with Traffic() as scheduling:
            self.scheduler.step()
        return training.bytes, scheduling.bytes


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def saving(training: Training, folder: str) -> dict[str, float]:
    """Seconds of a save; of one in the background until the training goes on, and until all is written."""
    parts = (training.model, training.optimizer, training.scheduler)
    plain, blocked, written = [], [], []
    for number in range(ROUNDS):
        at = f"{folder}/{number}"
        plain.append(seconds(lambda: save_checkpoint(f"{at}a", *parts)))  # noqa: B023
        start = time.perf_counter()
        future = save_checkpoint(f"{at}b", *parts, asynchronous=True)
        blocked.append(time.perf_counter() - start)
        assert future is not None
        future.result()
        written.append(time.perf_counter() - start)
    size = sum(f.stat().st_size for f in Path(f"{folder}/0a").iterdir())
    found = {"plain": plain, "blocked": blocked, "written": written}
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"bytes": size}


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=RANKS
    )
    steps, savings = {}, {}
    for name, (method, storage) in TRAININGS.items():
        training = Training(method, storage)
        found = [training.step() for _ in range(8)]
        # The first step makes what later ones have.
        steps[name] = {
            "step": found[-1][0],
            "event": max(bytes_ for _, bytes_ in found[1:]),
        }
        savings[name] = saving(training, f"{folder}/{method}{storage}")
    if number == 0:
        found_ = {"steps": steps, "saving": savings}
        Path(folder, "result.json").write_text(json.dumps(found_), encoding="utf-8")
    dist.destroy_process_group()


def page(found: dict[str, Any]) -> str:
    weights = WIDTH * WIDTH * DEPTH
    steps, savings = found["steps"], found["saving"]
    first = table(
        (
            "training",
            "MB in a step",
            "of dense",
            "MB in a pruning event",
            "scores gathered would be",
        ),
        *(
            (
                name,
                f"{row['step'] / 1e6:.1f}",
                f"{row['step'] / steps['dense']['step']:.2f}",
                f"{row['event'] / 1e6:.2f}" if name == "gmp" else "",
                f"{4 * weights / 1e6:.1f}" if name == "gmp" else "",
            )
            for name, row in steps.items()
        ),
    )
    second = table(
        (
            "training",
            "MB",
            "s to save",
            "s until the training goes on",
            "s until all is written",
        ),
        *(
            (
                name,
                f"{row['bytes'] / 1e6:.0f}",
                f"{row['plain']:.2f}",
                f"{row['blocked']:.2f}",
                f"{row['written']:.2f}",
            )
            for name, row in savings.items()
        ),
    )
    return f"""# Sharded models: traffic and checkpoints

Written by `python -m benchmarks.sharded`: {RANKS} processes, {DEPTH} layers of {WIDTH} x {WIDTH}, 90 % zeros, float32,
AdamW.
{machine(found)}

Bytes are the sizes of gathered weights and of gradients before they are scattered, counted at the collective calls.

{first}

Checkpoints (`sparsify_fx.distributed.save_checkpoint`) of model, optimizer and Scheduler, medians of {ROUNDS}; the last
two columns are of `asynchronous=True`, in which a thread writes while the training goes on.

{second}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    if not parser.parse_args().page:
        with tempfile.TemporaryDirectory() as folder:
            spawn(rank, (folder,), nprocs=RANKS)
            found = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        write(NAME, surroundings() | found, "")
    results = known(NAME)
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
