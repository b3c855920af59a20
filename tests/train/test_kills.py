"""A slice of `python -m benchmarks.kills`: trainings killed at random go on to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_page import MARK, words

ROOT = Path(__file__).parents[2]


def killed(out: Path, *options: str) -> dict[str, Any]:
    """What the command finds."""
    command = [sys.executable, "-m", "benchmarks.kills", "--share-seconds", "0"]
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_few_kills(tmp_path: Path) -> None:
    found = killed(tmp_path / "kills.json", "--kills", "6", "--seed", "3")
    assert found["kills"] >= 6
    assert found["trainings_that_differ"] == 0


@pytest.mark.sweep
@pytest.mark.slow
def test_more_kills_of_one_and_two_processes(tmp_path: Path) -> None:
    found = killed(tmp_path / "kills.json", "--kills", "25", "--seed", "4")
    assert found["kills"] >= 25
    assert found["trainings_that_differ"] == 0


def test_the_page_tells_what_the_results_hold() -> None:
    found = json.loads((ROOT / "docs/results/kills.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/resuming.md").read_text(encoding="utf-8")
    assert page.partition(MARK)[2] == words(found)
    # What is told is what is listed, kill by kill.
    kills = [kill for trial in found["trials"] for kill in trial["kills"]]
    assert found["kills"] == len(kills) > 250
    assert found["kills_without_words"] == sum(bool(kill["wrong"]) for kill in kills)
    assert not any(trial["differences"] for trial in found["trials"])
