"""Raw results of benchmarks/methods_table.py: docs/results/methods_mnist5k.json.

setting   what all trainings have in common
cells     [row][sparsity][seed]: test accuracy, sparsity of the prunable weights, commit; `strength` if it was chosen
scans     [method][sparsity][strength]: validation accuracy, sparsity, commit
former    [row][sparsity]: a cell as an older page had it, without single seeds, and its source
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.methods_scans import ANY

Results = dict[str, Any]
# cells or scans, row, sparsity, seed or strength.
Place = tuple[str, str, str, str]
ROOT = Path(__file__).parents[1]


def read(path: Path, setting: dict[str, Any]) -> Results:
    """The results so far; SystemExit where they are of another setting."""
    if not path.exists():
        return {"setting": setting, "cells": {}, "scans": {}, "former": {}}
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    if found["setting"] != setting:
        raise SystemExit(
            f"{path} has the setting {found['setting']}, asked for was {setting}: give another --out"
        )
    return found


def write(path: Path, results: Results) -> None:
    """Written whole or not at all: a stopped command leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    text = json.dumps(results, indent=1, sort_keys=True) + "\n"
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def get(results: Results, place: Place) -> dict[str, Any] | None:
    """The outcome at a place, None where nothing was trained."""
    kind, row, column, entry = place
    found: dict[str, Any] | None = results[kind].get(row, {}).get(column, {}).get(entry)
    return found


def put(results: Results, place: Place, outcome: dict[str, Any]) -> None:
    """An outcome at its place. A cell with all seeds of the setting takes the place of a former one."""
    kind, row, column, entry = place
    entries = results[kind].setdefault(row, {}).setdefault(column, {})
    entries[entry] = outcome
    if kind == "cells" and len(entries) >= results["setting"]["seeds"]:
        former = results["former"].pop(row, {})
        # What knows no sparsity is the same in all columns.
        left = {} if column == ANY else {c: v for c, v in former.items() if c != column}
        if left:
            results["former"][row] = left


def package_commit() -> str:
    """The last commit that changed the package, with "-dirty" where files differ from it.

    That one and not the checkout's: it alone decides what comes out, and a rebase of this file leaves it.
    """
    found = _git("log", "-1", "--format=%h", "--abbrev=10", "--", "sparsify_fx")
    changed = _git("status", "--porcelain", "--", "sparsify_fx")
    return found + ("-dirty" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
