"""Milliseconds asked of `apply` and milliseconds of the exported file: docs/results/latency_budget.json.

    python benchmarks/latency_budget.py                                     # about 5 minutes on one core
    python benchmarks/latency_budget.py --models resnet20 --shares 0.4 --allocations uniform --out resnet20.json

Each model is rewritten by `apply(model, "gmp", allocation=..., budget=Latency(share of the dense time))`, trained on
real digits until its schedule has ended, merged, and exported for the sparse kernels. The file then runs in turn with
the dense one, with one thread. `asked`: what `apply` was told; `found`: what it measured itself, before the training;
`measured`: the file's median by processor time, as many milliseconds as it takes of those that the dense model took
when `apply` measured it, since a machine's own speed drifts by more than what is asked about; `raw`: the same without
that; `wall`: the fastest run by the clock; `off`: measured over asked, less one.

Settings that the file of results has already are measured again and replaced; the others stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from pruned_models import SMALL
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.budgets import Latency, met_by
from sparsify_fx.errors import SparsifyWarning
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model

EPOCHS, STEPS = 4, 5
RUNS = 150


def fresh(name: str) -> tuple[nn.Module, int, int]:
    """A model, the side of its images, and a batch to train with."""
    side, classes, batch = (32, 10, 64) if name in SMALL else (224, 10, 8)
    torch.manual_seed(0)
    spec = name if name in SMALL else f"timm:{name}"
    model = build_model(spec, num_classes=classes, in_channels=3, image_size=side)
    return model, side, batch


def train(model: nn.Module, side: int, batch: int) -> None:
    """The whole schedule, on real digits in three colors."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
    )
    images = load_data("mnist5k", image_size=side).train.epoch(batch, train=True)
    for x, y in itertools.islice(images, scheduler.steps):
        F.cross_entropy(model.train()(x.expand(-1, 3, -1, -1)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert scheduler.finished


def exported(model: nn.Module, side: int, path: Path, target: str) -> Any:
    """A session of the model's file for one image, with one thread."""
    sparsify_fx.export(
        model, path, torch.zeros(1, 3, side, side), target=target, encoding="dense"
    )
    return runtime.session(path, threads=1)


def dense_session(name: str, folder: Path) -> Any:
    """The dense model as `apply` times it: branches that begin at zero are open."""
    model, side, _ = fresh(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return exported(model, side, folder / "dense.onnx", "onnx")


def times_in_turn(
    sessions: list[onnxruntime.InferenceSession], side: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Milliseconds of processor time and of the clock for each session; a run before each is not counted."""
    feed = {sessions[0].get_inputs()[0].name: torch.randn(1, 3, side, side).numpy()}
    used: list[list[float]] = [[] for _ in sessions]
    clock: list[list[float]] = [[] for _ in sessions]
    for _ in range(RUNS):
        for place, session in enumerate(sessions):
            session.run(None, feed)
            start, thread = time.perf_counter(), time.thread_time()
            session.run(None, feed)
            used[place].append(1e3 * (time.thread_time() - thread))
            clock[place].append(1e3 * (time.perf_counter() - start))
    return used, clock


def measure(name: str, allocation: str, share: float, folder: Path) -> dict[str, Any]:
    """One setting, from the question to the file."""
    dense = dense_session(name, folder)
    model, side, batch = fresh(name)
    before = statistics.median(times_in_turn([dense], side)[0][0])
    asked = round(share * before, 3)
    start = time.process_time()
    sparsify_fx.apply(
        model,
        "gmp",
        allocation=allocation,
        budget=Latency(asked),
        example_inputs=torch.zeros(1, 3, side, side),
    )
    seconds = time.process_time() - start
    (met,) = met_by(model)
    train(model, side, batch)
    sparsify_fx.merge(model)
    sparse = exported(model, side, folder / "sparse.onnx", "sparse-ort")
    used, clock = times_in_turn([dense, sparse], side)
    raw, after = statistics.median(used[1]), statistics.median(used[0])
    measured = raw * met.dense / after
    return {
        "model": name,
        "allocation": allocation,
        "share": share,
        "dense": met.dense,
        "dense_after": after,
        "asked": asked,
        "found": met.expected,
        "measured": measured,
        "raw": raw,
        "wall": min(clock[1]),
        "off": measured / asked - 1,
        "sparsity": met.sparsity,
        "kept": met.kept,
        "weights": met.total,
        "apply_processor_seconds": seconds,
        "samples": {"dense": used[0], "sparse": used[1]},
    }


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes it the same setting."""
    return row["model"], row["allocation"], row["share"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet20", "mobilenetv2_100"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.6])
    parser.add_argument("--allocations", nargs="+", default=["uniform", "global"])
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/latency_budget.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {key(row): row for row in known}
    for name, allocation, share in itertools.product(
        options.models, options.allocations, options.shares
    ):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, allocation, share, Path(folder))
        rows[key(row)] = row
        print(
            f"{name} {allocation}: dense {row['dense']:.3f} ms, asked {row['asked']:.3f}, found {row['found']:.3f}, "
            f"measured {row['measured']:.3f} ({row['off']:+.1%}), wall {row['wall']:.3f}, "
            f"sparsity {row['sparsity']:.3f}",
            flush=True,
        )
        about = surroundings() | {
            "onnxruntime": onnxruntime.__version__,
            "kernels": runtime.instruction_set(),
        }
        content = {"surroundings": about, "rows": list(rows.values())}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # Random training of a few steps may cut layers off, which is not what is measured here.
    warnings.simplefilter("ignore", SparsifyWarning)
    main()
