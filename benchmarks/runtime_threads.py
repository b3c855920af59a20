"""How much faster two threads are than one, dense and sparse, in turn in one process.

    python benchmarks/runtime_threads.py --models resnet50 --sparsities 0.9 0.95 0.98 --batches 1 8

Models as in runtime_speed.py. A session with one thread and one with more run in turn, dense, and then sparse; each
runs three times, and the last two count, as in a program with one session, whose weights lie in the caches. Threads of
a session that is not running do not spin. Medians; `quartiles` are those of the ratios of neighboring runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
from pruned_models import Subject, pruned, subject
from rich.console import Console
from rich.table import Table
from runtime_speed import open_session, packed

from sparsify_fx import runtime

COLUMNS = [
    "model",
    "zeros",
    "batch",
    "form",
    "one ms",
    "threads ms",
    "ratio",
    "quartiles",
]


def milliseconds(
    session: onnxruntime.InferenceSession, given: Subject, batch: int
) -> float:
    """The mean of the last two of three runs."""
    feed = given.feed(batch)
    session.run(None, feed)
    start = time.perf_counter()
    for _ in range(2):
        session.run(None, feed)
    return 500 * (time.perf_counter() - start)


def ratios(
    path: Path, library: str | None, given: Subject, batch: int, threads: int, runs: int
) -> Sequence[str]:
    """The cells of one row: one thread against `threads`."""
    sessions = [open_session(path, count, library) for count in (1, threads)]
    taken = [
        [milliseconds(session, given, batch) for session in sessions]
        for _ in range(runs + 1)
    ][1:]
    one, many = (statistics.median(column) for column in zip(*taken, strict=True))
    low, middle, high = statistics.quantiles(
        [first / second for first, second in taken], n=4
    )
    return [f"{one:.2f}", f"{many:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.9, 0.95, 0.98]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument(
        "--mask", choices=["uniform", "global", "pointwise"], default="uniform"
    )
    parser.add_argument(
        "--data",
        default="mnist5k",
        help="real images: mnist5k, npz:PATH or imagefolder:PATH",
    )
    given = parser.parse_args()
    table = Table(
        *COLUMNS,
        title=f"{runtime.instruction_set()}, {given.threads} threads, {given.mask} masks",
    )
    for name in given.models:
        one = subject(name, given.data)
        for sparsity in given.sparsities:
            with tempfile.TemporaryDirectory() as folder:
                dense, sparse = (
                    Path(folder) / "dense.onnx",
                    Path(folder) / "sparse.onnx",
                )
                onnx.save(pruned(one.dense, sparsity, given.mask), dense)
                for batch in given.batches:
                    packed(dense, sparse, one, batch, autotune=False)
                    for form, path, library in (
                        ("dense", dense, None),
                        ("sparse", sparse, runtime.library()),
                    ):
                        cells = ratios(
                            path, library, one, batch, given.threads, given.runs
                        )
                        table.add_row(name, f"{sparsity:g}", str(batch), form, *cells)
                        print(name, f"{sparsity:g}", batch, form, *cells, flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
