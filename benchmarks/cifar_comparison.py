"""Methods beside each other on all of CIFAR-10: docs/results/cifar_comparison.json and .md.

    python unpack_cifar10.py cifar10 --format npz            # or any folder with train.npz and test.npz
    python -m benchmarks.cifar_comparison --data cifar10 --runs runs --hours 3 --workers 2
    python -m benchmarks.cifar_comparison --page             # only write the page from the results again

All trainings take about 18 hours of two cores, so this is made for several sittings: what the results have is not
trained again, a training that was cut off goes on from its checkpoint in `--runs`, and after `--hours` none is begun.
Questions come one after the other, so that what is there has all its seeds; the page says what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cifar_comparison_page import NAME, page
from benchmarks.cifar_trials import Trial, trials
from benchmarks.training_cases import RESULTS, read, write
from sparsify_fx.training_cost.surroundings import surroundings

LOCK = threading.Lock()


def main() -> None:
    options = parsed()
    if not options.page:
        wanted = [trial for trial in trials() if trial.key not in rows()]
        end = time.monotonic() + 3600 * options.hours
        lasting = iter(wanted)
        workers = [
            threading.Thread(target=work, args=(options, lasting, end))
            for _ in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    found = read(NAME)
    if found:
        write(NAME, found, page(found))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("cifar10"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if not options.page and not (options.data / "train.npz").is_file():
        parser.error(
            f"{options.data} has no train.npz: unpack CIFAR-10 there, or name another folder with --data"
        )
    return options


def rows() -> dict[str, Any]:
    """What was trained, by the key of the trial."""
    found: dict[str, Any] = read(NAME).get("rows", {})
    return found


def work(options: argparse.Namespace, wanted: Iterator[Trial], end: float) -> None:
    """Train what nobody has begun, one at a time, until the time is over or nothing is left."""
    while time.monotonic() < end:
        with LOCK:
            trial = next(wanted, None)
        if trial is None:
            return
        row = trained(options, trial)
        with LOCK:
            keep(trial, row)
        print(f"{trial.key}: {100 * row['result']['test_accuracy']:.2f} %", flush=True)


def trained(options: argparse.Namespace, trial: Trial) -> dict[str, Any]:
    """One training in a process and a folder of its own, with one thread."""
    runs = options.runs / trial.key.replace(", ", "-").replace(" ", "")
    command = [sys.executable, "-m", "sparsify_fx", *trial.command(options.data, runs)]
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    (path,) = runs.glob("*/result.json")
    result = json.loads(path.read_text())
    # Folders of this machine say nothing elsewhere.
    result["folder"] = trial.key
    result["provenance"]["data"] = f"npz:{options.data.name}"
    return {
        "question": trial.question,
        "method": trial.method,
        "sparsity": trial.sparsity,
        "seed": trial.seed,
        "commit": surroundings()["commit"],
        "result": result,
    }


def keep(trial: Trial, row: dict[str, Any]) -> None:
    """Put a row into the file at once: the next training may be cut off."""
    content = {"surroundings": surroundings(), "rows": {**rows(), trial.key: row}}
    # In the order of the trials, whatever ended first.
    order = [each.key for each in trials()]
    content["rows"] = dict(
        sorted(content["rows"].items(), key=lambda item: order.index(item[0]))
    )
    whole = RESULTS / f"{NAME}.json"
    partial = whole.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(whole)


if __name__ == "__main__":
    main()
