"""The figures of docs/results/kills.json in words, for the end of docs/resuming.md.

python -m benchmarks.kill_page     # writes them anew; `python -m benchmarks.kills` does so itself
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULT, PAGE = Path("docs/results/kills.json"), Path("docs/resuming.md")
MARK = "<!-- What follows is written by `python -m benchmarks.kill_page`. -->\n"
_KINDS = {
    "process": "the process, at a random instant",
    "rank": "one of two processes, at a random instant",
    "all": "both of two processes",
    "worker": "a process that decodes images",
    "write": "before, within or after a write",
    "fsync": "before or after a sync",
    "rename": "before or after a rename",
    "append": "before, within or after a line of the metrics",
    "SIGTERM": "asked to leave by SIGTERM",
    "SIGUSR1": "asked to leave by SIGUSR1",
}


def words(found: Mapping[str, Any]) -> str:
    """What came of a run of the harness, as Markdown."""
    around, share = found["surroundings"], found["at_the_defaults"]
    minutes, torch = found["seconds"] / 60, around["versions"]["torch"]
    rows = [
        f"| {told} | {found['by_kind'].get(kind, 0)} |" for kind, told in _KINDS.items()
    ]
    lines = [
        "",
        f"Commit {around['commit']}, torch {torch}, {around['processor']}; {minutes:.0f} minutes, beside other work.",
        "[All of it](results/kills.json).",
        "",
        "| killed | times |",
        "|---|---|",
        *rows,
        f"| together, in {found['trainings']} trainings | {found['kills']} |",
        "",
        "| of them | number |",
        "|---|---|",
        "| trainings that differ in a bit, or left a temporary file, a process or shared memory "
        f"| {found['trainings_that_differ']} |",
        f"| kills that left a half-written file, which the next start removed | {found['found_half_written']} |",
        f"| kills that left a checkpoint from within an epoch | {found['within_an_epoch']} |",
        f"| kills that another process did not notice within {found['patience']:g} s: it was ended as torchrun ends it "
        f"| {found['told_as_by_torchrun']} |",
        f"| kills that ended in other words than they should | {found['kills_without_words']} |",
        "",
        f"A training of {share['seconds']:.0f} seconds at the defaults (`mnist5k-lenet5`) spent "
        f"{share['share']:.2%} of its time on checkpoints.",
        "",
    ]
    return "\n".join(lines)


def write_page(found: Mapping[str, Any]) -> None:
    """Put the words at the end of the page, in place of those that are there."""
    kept, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{PAGE} has lost the line {MARK!r}"
    PAGE.write_text(kept + MARK + words(found), encoding="utf-8")


if __name__ == "__main__":
    write_page(json.loads(RESULT.read_text(encoding="utf-8")))
