"""Process groups of two and four ranks, each started once for all tests, which ask it for one case after the other."""

from __future__ import annotations

import atexit
import contextlib
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

from tests.fresh import close

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
Results = Callable[[str, int], list[Any]]


@functools.cache
def group(ranks: int) -> tuple[subprocess.Popen[str], ...]:
    """The processes of a group, which end when the one that tests does."""
    rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
    processes = tuple(
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.distributed.worker"),
                *(str(rank), str(ranks), str(rendezvous)),
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    )
    for process in processes:
        # Later registered, earlier called: all inputs end before the first process is waited for.
        atexit.register(process.wait)
    for process in processes:
        atexit.register(close, process)
    return processes


@functools.cache
def run(ranks: int, case: str) -> tuple[Any, ...]:
    """What each rank saw in a case."""
    processes = group(ranks)
    for process in processes:
        assert process.stdin is not None
        # A rank that is no more gives an empty answer below.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(case + "\n")
            process.stdin.flush()
    answers = [process.stdout.readline() for process in processes if process.stdout]
    assert all(answers), f"a rank ended in {case}"
    return tuple(json.loads(answer) for answer in answers)


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
                env=ENVIRONMENT,
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
        seen = run(ranks, case)
        for rank, found in enumerate(seen):
            failed = isinstance(found, dict) and "failed" in found
            assert not failed, f"rank {rank} in {case}: {found['failed']}"
        return list(seen)

    return of
