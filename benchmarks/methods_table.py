"""Every method at several sparsities with one budget of epochs: the table in docs/results/methods_mnist5k.md.

    python benchmarks/methods_table.py                          # all methods, about 40 minutes on 2 cores; resumes
    python benchmarks/methods_table.py --methods lrr signin --sparsities 0.9 --seeds 1 --budget 10
    python benchmarks/methods_table.py --methods cap npb --add  # new rows; its others stay

Each training gets the same number of epochs in all, whether its method spends them in one run or in many cycles.
Finished runs are kept in --runs and not repeated, so the command can be stopped at any time.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from sparsify_fx.errors import SparsifyError
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.schedules import Cycles
from sparsify_fx.train import load_config, train

SUMS = (
    *(
        "acdc+signin",
        "lrr+signin",
        "lrr+pilot",
        "wr+pilot",
        "snip+signin",
        "synflow+signin",
        "rigl+signin",
    ),
    *("lrr+snip", "imp+synflow"),
)
STUDENT_T = {
    2: 12.706,
    3: 4.303,
    4: 3.182,
    5: 2.776,
}  # two-sided 95 %, by number of seeds
# Reaches the sparsity that comes out of its strength, which no column of the table has.
UNTARGETED = ("str-constant",)
KEEP = 0.5  # of the weights in a cycle: with 0.8 the cycles to 0.98 would not fit into the budget
# A multilayer perceptron: two seconds a training, so that all cells take 40 minutes, not hours.
SETUP = {
    "model": "lenet300",
    "init": "kaiming_normal",
    "batch_size": 256,
    "eval_every": 100,
    "checkpoint_every": 100,
}
Cell = tuple[str, float]


def one_run(
    recipe: str, method: str, sparsity: float, seed: int, budget: int, runs: Path
) -> tuple[Cell, float | str]:
    """Train one cell with one seed; its test accuracy, or the reason why it failed."""
    torch.set_num_threads(1)
    schedule, axes = find_method(method).resolved().schedule, {}
    if isinstance(schedule, Cycles):
        schedule = Cycles(keep=KEEP)
        axes = {"schedule": {"name": "cycles", "keep": KEEP}}
    epochs = max(2, round(budget / schedule.runs(sparsity)))
    values = {
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "epochs": epochs,
        "axes": axes,
        **SETUP,
    }
    try:
        result = train(
            load_config(recipe, values=values),
            runs_dir=runs,
            progress=False,
            tensorboard=False,
        )
    except SparsifyError as error:
        return (method, sparsity), f"{type(error).__name__}: {error}"
    return (method, sparsity), result.test_accuracy


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval, in per cent."""
    mean = 100 * statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * STUDENT_T[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.1f}"


def table(
    found: dict[Cell, list[float]], failed: dict[Cell, str], sparsities: Iterable[float]
) -> str:
    """Markdown: one row a method, one column a sparsity."""
    columns = list(sparsities)
    lines = [
        "| method | " + " | ".join(f"s = {s:g}" for s in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    methods = dict.fromkeys(method for method, _ in (*found, *failed))
    for method in methods:
        cells = [
            interval(found[method, s]) if (method, s) in found else "failed"
            for s in columns
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        f"\n{method} at {sparsity:g}: {reason}"
        for (method, sparsity), reason in failed.items()
    ]
    return "\n".join(lines) + "\n"


def with_rows(page: str, rows: str) -> str:
    """The page with these rows in its table: in place of those of the same methods, the others before the sums."""
    new = {
        row.split(" | ")[0]: row for row in rows.splitlines() if row.startswith("| ")
    }
    new.pop("| method", None)
    lines = []
    for line in page.splitlines():
        first = line.split(" | ")[0]
        # Sums stand behind the methods.
        if "+" in first and first.startswith("| "):
            lines += [new.pop(name) for name in sorted(new) if "+" not in name]
        lines.append(new.pop(first, line))
    end = max(i for i, line in enumerate(lines) if line.startswith("| "))
    lines[end + 1 : end + 1] = [new[name] for name in sorted(new)]
    return "\n".join(lines) + "\n"


def main() -> None:
    find_method("dense")  # fills the registry
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="mnist5k-lenet5-bn")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[*(m for m in METHODS if m not in UNTARGETED), *SUMS],
    )
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--budget",
        type=int,
        default=20,
        help="epochs of one training, over all its cycles",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/methods-table"))
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/methods_mnist5k.md")
    )
    parser.add_argument(
        "--add", action="store_true", help="leave the other rows of --out as they are"
    )
    args = parser.parse_args()
    jobs = [(args.recipe, m, s, seed, args.budget, args.runs)
            for m in args.methods for s in args.sparsities for seed in range(args.seeds)]  # fmt: skip
    found: dict[Cell, list[float]] = {}
    failed: dict[Cell, str] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, (cell, outcome) in enumerate(
            pool.map(one_run, *zip(*jobs, strict=True)), start=1
        ):
            if isinstance(outcome, str):
                failed[cell] = outcome
            else:
                found.setdefault(cell, []).append(outcome)
            print(
                f"{done} of {len(jobs)}: {cell[0]} at {cell[1]:g}: {outcome}",
                flush=True,
            )
    for cell in failed:
        found.pop(cell, None)
    command = "python benchmarks/methods_table.py" + (
        f" --budget {args.budget} --seeds {args.seeds}"
    )
    head = (
        "# All methods on 5,000 digits\n\n"
        f"Test accuracy in per cent on 1,000 real digits, mean and 95 % interval over {args.seeds} seeds.\n"
        f"LeNet-300-100, recipe `{args.recipe}` with batch 256 and Kaiming initialization, {args.budget} epochs\n"
        f"in all for every method; cycles share them and keep {KEEP} of the weights each. `dense` has no zeros.\n\n"
        "The digits are easy and the budget is short: the table shows that every method works and where it breaks,\n"
        f"not a ranking.\n\nMade by `{command}`.\n\n"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page = head + table(found, failed, args.sparsities)
    if args.add:
        page = with_rows(args.out.read_text(encoding="utf-8"), page)
    args.out.write_text(page, encoding="utf-8")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
