"""Sparse steps with images in bfloat16 beside float32: docs/results/bfloat16_images.json and .md.

    python -m benchmarks.bfloat16_images                    # about ten minutes on one core
    python -m benchmarks.bfloat16_images --only resnet20
    python -m benchmarks.bfloat16_images --page             # only write the page from the results again

The same models step in turn with and without `torch.autocast("cpu", torch.bfloat16)`, dense and sparse, by processor
time of one thread. `kept` are the bytes that a forward leaves for its backward, without parameters.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.sparse_training import DENSE, ROWS, SPARSE, Row, Steps, sparse_model
from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.trainee import Case

NAME = "bfloat16_images"
FLOAT, HALF = "float32", "bfloat16"
HEAD = """# Images in bfloat16

Steps with [sparse kernels](../sparse_training.md) and dense ones, with images in float32 and, under autocast, in
bfloat16: medians of processor time of one thread, in one run. `kept` is what a forward leaves for its backward, beside
parameters.

{steps}

Made with `python -m benchmarks.bfloat16_images`; all samples are in [the raw results](bfloat16_images.json). {machine}
"""


def precision(name: str) -> AbstractContextManager[Any]:
    """Autocast, or nothing."""
    return torch.autocast("cpu", torch.bfloat16) if name == HALF else nullcontext()


def kept(case: Steps, name: str) -> int:
    """Bytes of the tensors that a forward keeps, each memory once, without those of parameters."""
    own = {each.untyped_storage().data_ptr() for each in case.model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with precision(name), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        loss = case.loss()
    del loss
    return sum(found.values())


def step(case: Steps, name: str) -> float:
    """Processor seconds of a step."""
    begin = time.process_time()
    with precision(name):
        case.step()
    return time.process_time() - begin


def measured(row: Row, rounds: int) -> dict[str, Any]:
    """One row of the results: a model of its own for each kind and precision, as choices of layers hang on both."""
    builds = {DENSE: row.setting.model, SPARSE: lambda: sparse_model(row)}
    cases = {
        (kind, name): Steps(Case(kind, build), row.setting)
        for kind, build in builds.items()
        for name in (FLOAT, HALF)
    }
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for (kind, name), case in cases.items():
            taken = step(case, name)
            # The first rounds pack weights and find memory.
            if number >= 2:
                seconds.setdefault(f"{kind} {name}", []).append(taken)
    sizes = {f"{kind} {name}": kept(case, name) for (kind, name), case in cases.items()}
    return {"sparsity": row.sparsity, "seconds": seconds, "kept": sizes, "surroundings": surroundings()}  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The page of all rows that were measured."""
    names = [f"{kind} {name}" for kind in (DENSE, SPARSE) for name in (FLOAT, HALF)]
    head = "training", *[f"{name}, ms" for name in names], "kept, sparse float32, MB", "bfloat16, MB"  # fmt: skip
    lines = []
    for name, row in results.items():
        times = [1000 * statistics.median(row["seconds"][each]) for each in names]
        sizes = [row["kept"][f"{SPARSE} {each}"] / 1e6 for each in (FLOAT, HALF)]
        lines.append((name, *[f"{each:.0f}" for each in times], *[f"{s:.1f}" for s in sizes]))  # fmt: skip
    last = [*results.values()][-1]["surroundings"]
    return HEAD.format(steps=table(head, *lines), machine=machine(last))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose names hold this text")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    # What torch has to say on its first steps is nothing that is measured.
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    results = read(NAME)
    for row in ROWS:
        if options.page or row.sparsity != 0.95 or options.only not in row.name:
            continue
        results[row.name] = measured(row, options.rounds)
        write(NAME, results, page(results))
        print(row.name, flush=True)
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
