"""Files against each other, in turns: seconds of the processor, one thread."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsify_fx import runtime
from sparsify_fx.onnx_export.checks import probe


def loads(files: Mapping[str, Path], rounds: int) -> dict[str, dict[str, Any]]:
    """For each file the seconds of every load, and what the peak of memory grew by; each in a process of its own."""
    found: dict[str, dict[str, Any]] = {
        name: {"load_s": [], "peak_bytes": []} for name in files
    }
    command = [sys.executable, probe.__file__, "--library", runtime.library(), "load"]
    for _ in range(rounds):
        for name, file in files.items():
            done = subprocess.run(
                [*command, str(file)], capture_output=True, check=True
            )
            once = json.loads(done.stdout)
            found[name]["load_s"].append(once["cpu_seconds"])
            found[name]["peak_bytes"].append(once["peak_bytes"])
    return found


def latencies(
    files: Mapping[str, Path], feed: Mapping[str, Any], rounds: int
) -> dict[str, list[float]]:
    """For each file the seconds of every run, each after one that is not counted."""
    sessions = {name: runtime.session(file, threads=1) for name, file in files.items()}
    found: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(rounds + 1):
        for name, session in sessions.items():
            # So that the timed run does not find another model's values in the caches.
            session.run(None, dict(feed))
            start = time.process_time()
            session.run(None, dict(feed))
            if turn:
                found[name].append(time.process_time() - start)
    return found


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the ratios within a round.

    >>> ratio([2, 4, 9], [1, 2, 3])
    2.0
    """
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))
