"""The page of `benchmarks.cifar_comparison`: a table of means and one of paired differences for each question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cifar_trials import CYCLE_EPOCHS, EPOCHS, SEEDS, trials
from benchmarks.training_cases import machine
from sparsify_fx.sweeps.compare import Comparison, compare
from sparsify_fx.sweeps.formats import markdown
from sparsify_fx.sweeps.records import Record, Records
from sparsify_fx.train.result import Result

NAME = "cifar_comparison"
QUESTIONS = {
    "signs": "Sign-In against the same random masks without it",
    "penalties": "PILoT against spred, STR and L1",
    "rewinding": "Learning-rate rewinding against weight rewinding",
}

HEAD = """# Methods on CIFAR-10

ResNet-20 on all 50,000 training images, tested on the 10,000 test images, on a processor's budget: {epochs} epochs a
training, {cycle} a cycle, batches of 128, {seeds} seeds. The papers train 150 epochs and more, so levels are not
theirs; methods that need long trainings are at a disadvantage here. Settings are in `benchmarks/cifar_trials.py`;
nothing was chosen by the test images, and no strength was tuned.

{done} of {all} trainings are done, in {hours:.1f} hours of one core. {state}

{tables}

Made with `python -m benchmarks.cifar_comparison`; all rows are in [the raw results](cifar_comparison.json). {machine}
"""


def page(found: dict[str, Any]) -> str:
    """All of it, from the raw results."""
    rows, every = found["rows"], list(trials())
    missing = len(every) - len(rows)
    seconds = sum(row["result"]["seconds"] for row in rows.values())
    return HEAD.format(
        epochs=EPOCHS,
        cycle=CYCLE_EPOCHS,
        seeds=len(SEEDS),
        done=len(rows),
        all=len(every),
        hours=seconds / 3600,
        state=f"{missing} are to come: the same command goes on." if missing else "",
        tables="\n".join(tables(rows)),
        machine=machine(found["surroundings"]),
    ).replace("\n\n\n", "\n\n")


def tables(rows: dict[str, Any]) -> Iterator[str]:
    """Of each question that has rows."""
    for question, title in QUESTIONS.items():
        own = [row for row in rows.values() if row["question"] == question]
        if own:
            yield f"## {title}\n"
            yield from _of(compare(Records(tuple(map(record, own)))))


def _of(comparison: Comparison) -> Iterator[str]:
    for table in comparison.tables:
        # Headings of a question stand above these.
        yield f"#{markdown(table)}"


def record(row: dict[str, Any]) -> Record:
    """A row as `sparsify-fx compare` knows runs."""
    cell = {"method": row["method"], "sparsity": row["sparsity"]}
    return Record(cell, row["seed"], Result.from_dict(row["result"]))
