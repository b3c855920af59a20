"""Steps with sparse kernels beside dense ones: docs/results/sparse_training.md and .json.

    python -m benchmarks.sparse_training                              # an hour on one core of an idle machine
    python -m benchmarks.sparse_training --only resnet18 --rounds 5   # these rows again
    python -m benchmarks.sparse_training --sparseprop PYTHON          # that has sparseprop 0.1.14
    python -m benchmarks.sparse_training --page                       # only write the page from the results again

A step is zero_grad, forward, cross-entropy, backward and SGD with momentum, on noise. Processor time of one thread,
every training in turn; dense is there twice, and in the layouts that PyTorch has: as it is, channels_last, compiled.
Masks are random and uniform, and the weights are plain (`random`), so that what is measured is the sparsity.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import sparsify_fx
from benchmarks.sparseprop_steps import NAME as SPARSEPROP
from benchmarks.sparseprop_steps import SparsePropSteps
from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.programs.owners import owners, program_of
from sparsify_fx.programs.products import CHOICE
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.trainee import Case, Trainee

NAME = "sparse_training"
DENSE, AGAIN, LAST, COMPILED = "dense", "dense again", "channels_last", "compiled"
SPARSE = "sparse"


@dataclass(frozen=True)
class Row:
    """One line of the table: a training, its sparsity, and how many times as fast as dense it is wanted to be."""

    setting: Setting
    sparsity: float
    wanted: float

    @property
    def name(self) -> str:
        what = self.setting
        size = "" if what.work == "mlp" else f" {what.size}x{what.size}"
        return f"{what.work}{size}, batch {what.batch}, {100 * self.sparsity:g} %"


_SMALL = Setting("torchvision:resnet18", 16, image_size=64)
_LARGE = Setting("torchvision:resnet18", 8)
_DEEP = Setting("torchvision:resnet50", 8)
_CIFAR = Setting("resnet20", 128)
_TOKENS = Setting("deit_tiny_patch16_224", 8)
_MLP = Setting("mlp", 64)
ROWS = (
    Row(_SMALL, 0.9, 2.8),
    Row(_SMALL, 0.95, 4.2),
    Row(_LARGE, 0.95, 3.6),
    Row(_DEEP, 0.9, 2.0),
    Row(_DEEP, 0.95, 3.0),
    Row(_CIFAR, 0.9, 2.0),
    Row(_CIFAR, 0.95, 3.0),
    Row(_TOKENS, 0.9, 1.8),
    Row(_TOKENS, 0.95, 2.5),
    Row(_MLP, 0.95, 5.0),
    *(
        Row(setting, sparsity, 1.0)
        for setting in (_SMALL, _LARGE, _DEEP, _CIFAR, _TOKENS, _MLP)
        for sparsity in (0.0, 0.5, 0.99)
    ),
    # Where batches are small for the weights, placing them counts.
    Row(_MLP, 0.1, 1.0),
    Row(_MLP, 0.3, 1.0),
)

HEAD = """# Sparse training

Steps with [sparse kernels](../sparse_training.md) beside dense steps of PyTorch in its fastest layout, measured in one
run: medians of processor time of one thread; every round takes one step of each. `dense again` is noise. SGD with
momentum, uniform random masks. Rows that want 1.0 want to be no slower than the same training without kernels (default
dense: at 0 % they are the same program, measured twice more).

{steps}

SparseProp 0.1.14 chooses by itself, layer by layer, between dense and its two kinds of vectors. `layers` are those that
took sparse kernels, of all prunable ones.

## The distance to the limit

What is left of the multiply-adds of forward and backward, and the time in which this processor could do them at most
(`limit`: the rate of its best matrix product, measured in the same run). The rest of a step goes to packing, to what is
not sparse (norms, activations, the optimizer) and to loads that wait for the second cache.

{limits}

Made with `python -m benchmarks.sparse_training`; all samples are in [the raw results](sparse_training.json). {machine}
"""


class Steps(Trainee):
    """A training whose images lie in channels_last, if wanted."""

    def __init__(self, case: Case, setting: Setting, last: bool = False) -> None:
        super().__init__(case, setting)
        if last and self.inputs.dim() == 4:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.inputs = self.inputs.contiguous(memory_format=torch.channels_last)


def sparse_model(row: Row) -> nn.Module:
    """The model of a row under random masks, accelerated."""
    model = sparsify_fx.apply(
        row.setting.model(),
        "random",
        sparsity=row.sparsity,
        allocation="uniform",
        storage="living",
    )
    inputs, _ = row.setting.data()
    return sparsify_fx.accelerate(model, inputs)


def trainings(row: Row, compiled: bool, sparseprop: str | None) -> dict[str, Any]:
    """All that are compared, by name; each has a `step`."""
    dense = Case(DENSE, row.setting.model)
    found: dict[str, Any] = {
        DENSE: Steps(dense, row.setting),
        LAST: Steps(dense, row.setting, last=True),
        SPARSE: Steps(Case(SPARSE, partial(sparse_model, row)), row.setting),
        AGAIN: Steps(dense, row.setting),
    }
    if compiled:
        setting = Setting(**{**asdict(row.setting), "compile": True})
        found[COMPILED] = Steps(dense, setting)
    # SparseProp is asked for what it was made for.
    if sparseprop is not None and row.wanted > 1:
        found[SPARSEPROP] = SparsePropSteps(sparseprop, row.setting, row.sparsity)
    return found


def measured(row: Row, rounds: int, compiled: bool, sparseprop: str | None) -> dict[str, Any]:  # fmt: skip
    """One row of the results."""
    cases = trainings(row, compiled, sparseprop)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        for _ in range(2):
            case.step()
    for _ in range(rounds):
        for name, case in cases.items():
            seconds[name].append(_seconds(case))
    sparse = cases[SPARSE].model
    return {
        "setting": asdict(row.setting),
        "sparsity": row.sparsity,
        "wanted": row.wanted,
        "rounds": rounds,
        "surroundings": surroundings(),
        "seconds": seconds,
        "work": work_of(sparse),
        "multiply_adds_per_second": fastest_product(),
    }


def _seconds(case: Any) -> float:
    """Processor seconds of a step; SparseProp steps in a process of its own, which tells them."""
    if isinstance(case, SparsePropSteps):
        return case.step()
    begin = time.process_time()
    case.step()
    return time.process_time() - begin


def work_of(model: nn.Module) -> dict[str, float]:
    """Multiply-adds of a step, dense and living, and the bytes of what living weights read and write."""
    dense = living = bytes_ = taken = layers = 0
    for _, owner, tensor in owners(model):
        layers += 1
        choice = owner.__dict__.get(CHOICE)
        for (shape, _), decision in (choice.known if choice else {}).items():
            positions = shape.images * shape.out_height * shape.out_width
            program = program_of(owner, tensor)
            kept = program.places()
            number = len(kept) if kept is not None else 0
            dense += 3 * positions * program.full_shape().numel()
            living += 3 * positions * number
            read = shape.images * shape.channels * shape.height * shape.width
            # Forward: read and write; backward: read both, write the gradient of the input.
            bytes_ += 4 * (3 * read + 2 * positions * shape.rows)
            taken += decision.sparse
    return {
        "dense": dense,
        "living": living,
        "bytes": bytes_,
        "taken": taken,
        "layers": layers,
    }


def fastest_product() -> float:
    """Multiply-adds a second of a large matrix product on one thread."""
    one, other = torch.randn(512, 512), torch.randn(512, 512)
    best = 0.0
    for _ in range(9):
        begin = time.process_time()
        for _ in range(4):
            one @ other
        best = max(best, 4 * 512**3 / (time.process_time() - begin))
    return best


def page(results: dict[str, Any]) -> str:
    """The page of these results."""
    rows = {row.name: row for row in ROWS if row.name in results}
    steps = [
        (
            "training", "dense ms", LAST, COMPILED, AGAIN, "sparse ms", "times the best dense", "wanted",
            "times default dense", SPARSEPROP, "layers",
        )
    ]  # fmt: skip
    limits = [
        (
            "training", "multiply-adds dense", "living", "limit", "sparse step", "bytes of activations",
        )
    ]  # fmt: skip
    for name, row in rows.items():
        found = results[name]
        ms = {
            case: 1e3 * statistics.median(each)
            for case, each in found["seconds"].items()
        }
        work = found["work"]
        sparse = ms[SPARSE]
        best = min(ms[each] for each in (DENSE, LAST, COMPILED, AGAIN) if each in ms)
        prop = ms.get(SPARSEPROP)
        steps.append(
            (
                name,
                *(_shown(ms.get(case)) for case in (DENSE, LAST, COMPILED, AGAIN, SPARSE)),
                f"{best / sparse:.2f}",
                f"{row.wanted:.1f}",
                f"{ms[DENSE] / sparse:.2f}",
                "" if prop is None else f"{ms[DENSE] / prop:.2f}",
                f"{work['taken']:.0f} of {work['layers']:.0f}",
            )
        )  # fmt: skip
        limit = 1e3 * work["living"] / found["multiply_adds_per_second"]
        limits.append(
            (
                name,
                f"{work['dense'] / 1e9:.2f} G",
                f"{work['living'] / 1e9:.2f} G",
                f"{limit:.1f} ms",
                f"{sparse:.1f} ms",
                f"{work['bytes'] / 1e6:.0f} MB",
            )
        )
    around = [results[name]["surroundings"] for name in rows] or [surroundings()]
    # Rows may have been measured one by one.
    commits = ", ".join(dict.fromkeys(each["commit"] for each in around))
    where = {**around[0], "commit": commits}
    return HEAD.format(
        steps=table(*steps), limits=table(*limits), machine=machine(where)
    )


def _shown(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--sparseprop", help="a Python that has sparseprop")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results = read(NAME)
    for row in ROWS:
        if options.page or options.only not in row.name:
            continue
        found = measured(
            row, options.rounds, not options.no_compile, options.sparseprop
        )
        results[row.name] = found
        medians = {n: statistics.median(s) for n, s in found["seconds"].items()}
        shown = ", ".join(f"{name} {1e3 * s:.1f}" for name, s in medians.items())
        print(f"{row.name}: {shown} ms", flush=True)
        write(NAME, results, page(results))
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
