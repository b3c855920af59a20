"""Load time, memory and latency of a file against its dense form, in the same run."""

from __future__ import annotations

import json
import logging
import pickle
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.checks import probe

_LOG = logging.getLogger(__name__)

LOADS = 5
ROUNDS = 15


@dataclass(frozen=True)
class Speed:
    """Medians in seconds and bytes, for the dense file and for the packed one; one thread.

    Loading was measured in a new process each time, peak memory is what the load added to it (0: not known on this
    system); runs took turns in one process. Names with cpu: seconds of the processor, not of the clock.
    """

    load_dense: float
    load: float
    peak_dense: float
    peak: float
    latency_dense: float
    latency: float
    cpu_load_dense: float
    cpu_load: float
    cpu_latency_dense: float
    cpu_latency: float

    @property
    def load_ratio(self) -> float:
        """Load time against dense; below 1 is faster."""
        return self.load / self.load_dense

    @property
    def peak_ratio(self) -> float:
        """Peak memory against dense."""
        return self.peak / self.peak_dense if self.peak_dense else 1.0

    @property
    def latency_ratio(self) -> float:
        """Time of a run against dense."""
        return self.latency / self.latency_dense

    @property
    def cpu_load_ratio(self) -> float:
        """Processor time of loading against dense."""
        return self.cpu_load / self.cpu_load_dense

    @property
    def cpu_latency_ratio(self) -> float:
        """Processor time of a run against dense."""
        return self.cpu_latency / self.cpu_latency_dense

    def to_dict(self) -> dict[str, float]:
        """All fields and ratios, ready for JSON."""
        ratios = (
            "load_ratio",
            "peak_ratio",
            "latency_ratio",
            "cpu_load_ratio",
            "cpu_latency_ratio",
        )
        return {**asdict(self), **{name: getattr(self, name) for name in ratios}}

    def sentence(self) -> str:
        """Load time, memory and latency in one line, each also as a multiple of the dense file's."""
        memory = (
            f", peak memory {self.peak / 1e6:.0f} MB ({self.peak_ratio:.2f}x dense)"
            if self.peak_dense
            else ""
        )
        return (
            f"load {self.load:.2f} s ({self.load_ratio:.2f}x dense){memory}, one run {1e3 * self.cpu_latency:.1f} ms "
            f"({self.cpu_latency_ratio:.2f}x dense, by the processor's time)"
        )


def measure(
    dense: Path,
    packed: Path,
    inputs: Mapping[str, Any],
    *,
    loads: int = LOADS,
    rounds: int = ROUNDS,
    library: str | None = None,
) -> Speed:
    """Load both files `loads` times and run them `rounds` times in turns, in processes of their own.

    `library`: operators that one of them needs.

    Raises ExportError when one of them cannot be loaded or run.
    """
    needed = [] if library is None else ["--library", library]
    _LOG.info(
        "measuring: %d loads and %d rounds of runs of %s and its dense form",
        loads,
        rounds,
        packed,
    )
    found: dict[Path, list[dict[str, float]]] = {dense: [], packed: []}
    for _ in range(loads):
        # In turns, so that what else the machine does falls on both alike.
        for path, results in found.items():
            results.append(_probe(*needed, "load", str(path)))
    with tempfile.TemporaryDirectory() as folder:
        # Arrays of strings, lists, maps and None have no place in a .npz.
        file = Path(folder) / "inputs.pickle"
        file.write_bytes(pickle.dumps(dict(inputs)))
        # Both in one process, for the same reason: caches and clock frequency are the
        # same for both.
        latencies = _probe(
            *needed, "latency", str(file), str(rounds), str(dense), str(packed)
        )

    def median(path: Path, key: str) -> float:
        return statistics.median(result[key] for result in found[path])

    return Speed(
        load_dense=median(dense, "seconds"),
        load=median(packed, "seconds"),
        peak_dense=median(dense, "peak_bytes"),
        peak=median(packed, "peak_bytes"),
        latency_dense=latencies[0]["seconds"],
        latency=latencies[1]["seconds"],
        cpu_load_dense=median(dense, "cpu_seconds"),
        cpu_load=median(packed, "cpu_seconds"),
        cpu_latency_dense=latencies[0]["cpu_seconds"],
        cpu_latency=latencies[1]["cpu_seconds"],
    )


def _probe(*arguments: str) -> Any:
    """Run probe.py, by its path: importing this package would take longer and more memory than what is measured."""
    done = subprocess.run(
        [sys.executable, probe.__file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        # The last line of a traceback is the error.
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(
            f"measuring failed: {reason}; export or pack without measure (--no-measure)"
        )
    return json.loads(done.stdout)
