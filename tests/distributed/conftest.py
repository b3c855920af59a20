"""Process groups of two and four ranks, each started once for all tests."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Results = Callable[[str, int], list[Any]]


@functools.cache
def run(ranks: int, kind: str) -> tuple[dict[str, Any], ...]:
    """What each rank saw, by case."""
    return launch("tests.distributed.worker", ranks, kind)


def launch(module: str, ranks: int, *given: str) -> tuple[Any, ...]:
    """What each rank of a process group has written; `module` is run with its number, theirs, two files and `given`."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{rank}.json" for rank in range(ranks)]
        common = [sys.executable, "-m", module]
        started = [
            subprocess.Popen(
                [
                    *common,
                    str(rank),
                    str(ranks),
                    f"{folder}/rendezvous",
                    str(file),
                    *given,
                ],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, file in enumerate(files)
        ]
        told = []
        try:
            for process in started:
                told.append(process.communicate(timeout=1800)[0])
        finally:
            for process in started:
                process.kill()
        assert all(file.exists() for file in files), "\n".join(
            text[-3000:] for text in told
        )
        return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files)


@pytest.fixture
def results() -> Results:
    """results(case, ranks): what each rank saw."""

    def of(case: str, ranks: int) -> list[Any]:
        kind = "fsdp" if case.startswith("fsdp") else "copies"
        seen = [rank[case] for rank in run(ranks, kind)]
        for rank, found in enumerate(seen):
            failed = isinstance(found, dict) and "failed" in found
            assert not failed, f"rank {rank} in {case}: {found['failed']}"
        return seen

    return of
