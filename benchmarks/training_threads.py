"""Sparse steps on two threads beside one: docs/results/training_threads.json.

    python -m benchmarks.training_threads                    # about 5 minutes; wants an idle machine
    python -m benchmarks.training_threads --only resnet20

The same model steps with one and with two threads of torch in turn, timed by the clock; `dense` does so too, since
layers that are not sparse share threads as torch has them do it.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.sparse_training import DENSE, ROWS, SPARSE, Row, Steps, sparse_model
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.trainee import Case

OUT = Path("docs/results/training_threads.json")
THREADS = (1, 2)


def measured(row: Row, rounds: int) -> dict[str, Any]:
    """Seconds of every step, by kind and number of threads."""
    cases = {
        DENSE: Steps(Case(DENSE, row.setting.model), row.setting),
        SPARSE: Steps(Case(SPARSE, lambda: sparse_model(row)), row.setting),
    }
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for name, case in cases.items():
            for threads in THREADS:
                torch.set_num_threads(threads)
                begin = time.perf_counter()
                case.step()
                taken = time.perf_counter() - begin
                # The first rounds pack weights and find memory.
                if number >= 2:
                    seconds.setdefault(f"{name} {threads}", []).append(taken)
    torch.set_num_threads(1)
    return {"seconds": seconds, "faster": {name: faster(seconds, name) for name in cases}}  # fmt: skip


def faster(seconds: dict[str, list[float]], name: str) -> float:
    """How many times as fast two threads are as one."""
    one, two = (statistics.median(seconds[f"{name} {threads}"]) for threads in THREADS)
    return one / two


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    known = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
    for row in ROWS:
        if options.only not in row.name or row.wanted == 1:
            continue
        known[row.name] = measured(row, options.rounds)
        shown = known[row.name]["faster"].items()
        print(row.name, *(f"{name} {ratio:.2f}" for name, ratio in shown), flush=True)
        content = {"surroundings": surroundings(), "rows": known}
        OUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
