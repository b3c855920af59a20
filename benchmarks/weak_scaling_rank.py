"""One process of benchmarks/weak_scaling.py: python -m benchmarks.weak_scaling_rank WHAT FOLDER."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import sparsify_fx
from sparsify_fx.distributed.joining import joined, launched_rank
from sparsify_fx.distributed.living_hook import living_hook
from sparsify_fx.train.config import parse_config
from sparsify_fx.train.session import build_session
from sparsify_fx.train.steps import Steps, build_steps
from sparsify_fx.zoo.models import build_model

STEPS, WARM = 12, 3
# Of a process in weak scaling, and of all in the other comparison.
EACH, WHOLE = 16, 64
CASES: dict[str, dict[str, Any]] = {
    "dense": {"method": "dense"},
    "signin full": {"method": "signin", "storage": "full"},
    "signin living": {"method": "signin", "storage": "living"},
}


@contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes of everything that this process gives to collective calls from Python."""
    given: list[int] = []

    def counting(real: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            given.append(args[position].nbytes)
            return real(*args, **options)

        return call

    # (call, which argument is this process's own)
    calls = {"all_reduce": 0, "all_gather": 1, "all_to_all_single": 1}
    with mock.patch.multiple(
        dist,
        **{name: counting(getattr(dist, name), at) for name, at in calls.items()},
    ):
        yield given


def plain_hook(state: object, bucket: dist.GradBucket) -> Any:
    """What DistributedDataParallel does without a hook, in Python, where it can be counted."""
    buffer = bucket.buffer() / dist.get_world_size()
    work = dist.all_reduce(buffer, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


plain_hook.__annotations__.clear()


def written() -> int:
    """Bytes that this process has given to the kernel to write, to sockets too."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def steps_of(data: Path, case: dict[str, Any], batch: int, accumulate: int) -> Steps:
    """The trainer's own steps."""
    config = {
        "model": "resnet20",
        "data": f"npz:{data}",
        "sparsity": 0.9,
        "epochs": 4,
        "batch_size": batch,
        "accumulate": accumulate,
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "device": "cpu",
        **case,
    }
    return build_steps(build_session(parse_config(config, "the benchmark")))


def timed(steps: Steps) -> dict[str, Any]:
    """Wall and processor seconds of steps, and the mean bytes of a step."""
    session = steps.session
    batches = session.training_batches(1)
    wall, processor, sent, wrote = [], [], [], []
    for number in range(1, STEPS + 1):
        x, y = next(batches)
        if dist.is_initialized():
            dist.barrier()
        start, cpu, before = time.perf_counter(), time.process_time(), written()
        with counted() as given:
            steps(x, y, 1, number)
        if number > WARM:
            wall.append(time.perf_counter() - start)
            processor.append(time.process_time() - cpu)
            sent.append(sum(given))
            wrote.append(written() - before)
    return {
        "wall": wall,
        "processor": processor,
        "given": sum(sent) / len(sent),
        "written": sum(wrote) / len(wrote),
    }


def images(folder: Path, count: int) -> Path:
    """Random images of CIFAR's size; every process writes its own."""
    numbers = np.random.default_rng(0)
    made = numbers.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=made, labels=np.arange(count) % 10)
    return folder / "images.npz"


def scaled(what: str) -> dict[str, Any]:
    """Every case on this number of processes."""
    count = dist.get_world_size() if dist.is_initialized() else 1
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = images(Path(folder), 1500)
        for name, case in CASES.items():
            if what == "weak":
                found[name] = timed(steps_of(data, case, EACH * count, 1))
                continue
            for accumulate in (1, 4):
                label = name if accumulate == 1 else f"{name}, accumulate: 4"
                found[label] = timed(steps_of(data, case, WHOLE, accumulate))
    return found


def traffic_of(storage: str, hook: Any) -> dict[str, Any]:
    """Bytes and moments of the buckets of one step of resnet50."""
    torch.manual_seed(0)
    model = build_model("torchvision:resnet50", num_classes=1000, image_size=64)
    if storage != "dense":
        sparsify_fx.apply(model, "signin", sparsity=0.9, storage=storage)
    wrapped = DistributedDataParallel(model)
    sizes: list[int] = []
    moments: list[float] = []

    def noted(state: object, bucket: dist.GradBucket) -> Any:
        moments.append(time.perf_counter())
        with counted() as given:
            future = hook(model, bucket)
        sizes.append(sum(given))
        return future

    noted.__annotations__.clear()
    wrapped.register_comm_hook(None, noted)
    # Buckets have their final order from the second step on.
    for _ in range(3):
        sizes.clear()
        moments.clear()
        loss = wrapped(torch.randn(4, 3, 64, 64)).square().mean()
        start = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
    ready = [min(1.0, (moment - start) / (end - start)) for moment in moments]
    return {"buckets": sizes, "ready": ready}


def resnet50() -> dict[str, Any]:
    """The traffic of dense training and of Sign-In in both storages, with one gradient for two factors and with two."""
    return {
        "dense": traffic_of("dense", plain_hook),
        "signin full, no hook": traffic_of("full", plain_hook),
        "signin full": traffic_of("full", living_hook),
        "signin living": traffic_of("living", living_hook),
    }


def main(what: str, folder: str) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with joined("cpu"):
        found = resnet50() if what == "resnet50" else scaled(what)
        file = Path(folder) / f"rank-{launched_rank()}.json"
        file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
