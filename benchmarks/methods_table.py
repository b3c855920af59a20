"""Every method at several sparsities with one budget of epochs: docs/results/methods_mnist5k.json and the pages of it.

    python -m benchmarks.methods_table                        # what the JSON lacks; all of it takes an hour of one core
    python -m benchmarks.methods_table --rows cap "l1, scanned"
    python -m benchmarks.methods_table --rows lrr --again     # once more, over what is there

Each training gets the same number of epochs in all, whether its method spends them in one run or in many cycles.
A row `l1, scanned` has a constant strength, chosen by training on 3,200 of the 4,000 training digits and judging on the
other 800, then trained as all others. Each result is written at once, so the command can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods_page import strengths_page, table_page
from benchmarks.methods_results import (
    Place,
    Results,
    get,
    package_commit,
    put,
    read,
    write,
)
from benchmarks.methods_scans import ANY, SCANS, SUFFIX, chosen, scan_of
from sparsify_fx.errors import SparsifyError
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.schedules import Cycles
from sparsify_fx.train import Result, load_config, train
from sparsify_fx.train.run_folder import METRICS

OUT = Path(__file__).parents[1] / "docs/results/methods_mnist5k.json"
STRENGTHS = "strengths.md"
RECIPE = "mnist5k-lenet5-bn"
SUMS = (
    *("acdc+signin", "lrr+signin", "lrr+pilot", "wr+pilot", "snip+signin"),
    *("synflow+signin", "rigl+signin", "lrr+snip", "imp+synflow"),
)
# It keeps the zeros of a pruned checkpoint, and there is none here.
LEFT_OUT = ("keep-zeros",)
# No sparsity decides what they train.
UNTARGETED = ("dense", "str-constant")
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
KEEP = 0.5  # of the weights in a cycle: with 0.8 the cycles to 0.98 would not fit into the budget
VALIDATION = 0.2  # of the training digits
# A multilayer perceptron: a few seconds a training, so that all cells take an hour, not a day.
SETUP = {
    "model": "lenet300",
    "init": "kaiming_normal",
    "batch_size": 256,
    "eval_every": 100,
    "checkpoint_every": 100,
}


@dataclass(frozen=True)
class Job:
    """One training: where its outcome goes, the values of its recipe, the strength that was chosen for it."""

    place: Place
    values: dict[str, Any]
    strength: float | None = None


def all_rows() -> list[str]:
    """All rows of the table."""
    find_method("dense")  # fills the registry
    methods = [name for name in METHODS if name not in LEFT_OUT]
    return [*methods, *(name + SUFFIX for name in SCANS), *SUMS]


def values(
    method: str, column: str, seed: int, budget: int, axes: dict[str, Any]
) -> dict[str, Any]:
    """A recipe's values, with the budget shared by the method's cycles."""
    sparsity = 0.0 if column == ANY else float(column)
    schedule = find_method(method).resolved().schedule
    if isinstance(schedule, Cycles):
        schedule = Cycles(keep=KEEP)
        axes = {**axes, "schedule": {"name": "cycles", "keep": KEEP}}
    epochs = max(2, round(budget / schedule.runs(sparsity)))
    own = {"method": method, "sparsity": sparsity, "seed": seed, "epochs": epochs}
    return {**own, "axes": axes, **SETUP}


def scan_jobs(
    rows: Sequence[str], columns: Sequence[str], budget: int
) -> Iterator[Job]:
    """The trainings by which the strengths of scanned rows are chosen, with seed 0."""
    for row in rows:
        scan, method = scan_of(row), row.removesuffix(SUFFIX)
        if scan is None:
            continue
        for column in columns if scan.targeted else (ANY,):
            for strength in scan.strengths:
                own = values(method, column, 0, budget, scan.axes(strength))
                place = ("scans", method, column, f"{strength:g}")
                yield Job(place, {**own, "validation": VALIDATION})


def cell_jobs(
    rows: Sequence[str], columns: Sequence[str], results: Results
) -> Iterator[Job]:
    """The trainings of the table's cells; scanned rows take what the scans have chosen."""
    budget, seeds = results["setting"]["budget"], results["setting"]["seeds"]
    for row in rows:
        scan, method = scan_of(row), row.removesuffix(SUFFIX)
        for column in (ANY,) if row in UNTARGETED else columns:
            strength, axes = None, {}
            if scan is not None:
                found = results["scans"][method][column if scan.targeted else ANY]
                strength = chosen(scan, found, float(column))
                if strength is None:
                    raise SystemExit(
                        f"{row} at {column}: every strength failed, {found}"
                    )
                axes = scan.axes(strength)
            for seed in range(seeds):
                own = values(method, column, seed, budget, axes)
                yield Job(("cells", row, column, str(seed)), own, strength)


def is_there(results: Results, job: Job) -> bool:
    """Whether the results have this training, with the strength that is chosen now."""
    found = get(results, job.place)
    return found is not None and found.get("strength") == job.strength


def outcome_of(job: Job, recipe: str, commit: str) -> dict[str, Any]:
    """Train, and tell accuracy and sparsity, or the reason why it failed."""
    torch.set_num_threads(1)
    config = load_config(recipe, values=job.values)
    facts = {"commit": commit}
    chose = {} if job.strength is None else {"strength": job.strength}
    # Not in runs/: a run of former code that lies there would be taken for this one.
    with tempfile.TemporaryDirectory() as runs:
        try:
            result = train(config, runs_dir=runs, progress=False, tensorboard=False)
        except SparsifyError as error:
            return {"error": f"{type(error).__name__}: {error}", **facts, **chose}
        came = {"sparsity": sparsity_of(result), **facts, **chose}
    if job.place[0] == "scans":
        return {"validation": result.validation_accuracy, **came}
    return {"accuracy": result.test_accuracy, **came}


def sparsity_of(result: Result) -> float:
    """The share of exact zeros among the prunable weights; `result.density` counts those that masks make alone."""
    last = json.loads((result.path / METRICS).read_text("utf-8").splitlines()[-1])
    return round(1 - (last["nonzeros"] - last["kept_zeros"]) / result.weights, 6)


def run(jobs: Sequence[Job], results: Results, out: Path, workers: int) -> None:
    """Train all jobs; results and pages are written after each."""
    recipe = results["setting"]["recipe"]
    work = partial(outcome_of, recipe=recipe, commit=package_commit())
    with ProcessPoolExecutor(workers) as pool:
        done = map(work, jobs) if workers == 1 else pool.map(work, jobs)
        for number, (job, outcome) in enumerate(zip(jobs, done, strict=True), start=1):
            put(results, job.place, outcome)
            save(results, out)
            told = outcome.get("accuracy", outcome.get("validation", "failed"))
            print(f"{number} of {len(jobs)}: {job.place[1:]}: {told}", flush=True)


def save(results: Results, out: Path) -> None:
    """The JSON and the two pages of it."""
    write(out, results)
    out.with_suffix(".md").write_text(table_page(results), encoding="utf-8")
    scans = strengths_page(results)
    (out.parent / STRENGTHS).write_text(scans, encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = all_rows()
    parser.add_argument("--rows", nargs="+", default=rows, metavar="ROW", choices=rows)
    parser.add_argument("--sparsities", nargs="+", type=float, default=SPARSITIES)
    parser.add_argument("--seeds", type=int, default=3)
    told = "epochs of one training, over all its cycles"
    parser.add_argument("--budget", type=int, default=20, help=told)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON")
    told = "train what is there once more"
    parser.add_argument("--again", action="store_true", help=told)
    args = parser.parse_args(words)
    shared = {"recipe": RECIPE, "budget": args.budget, "seeds": args.seeds}
    results = read(
        args.out, {**shared, "keep": KEEP, "validation": VALIDATION, **SETUP}
    )
    columns = [f"{sparsity:g}" for sparsity in args.sparsities]
    # The cells of scanned rows are known only when their scans are done.
    for find in (partial(scan_jobs, budget=args.budget), partial(cell_jobs, results=results)):  # fmt: skip
        jobs = list(find(args.rows, columns))
        left = [job for job in jobs if args.again or not is_there(results, job)]
        run(left, results, args.out, args.workers)
    save(results, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
