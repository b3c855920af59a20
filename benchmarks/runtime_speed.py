"""How much faster sparse operators run than stock onnxruntime on the same pruned models, in turn in one process.

    python benchmarks/runtime_speed.py --models resnet50 --sparsities 0.8 0.9 0.95 0.98 --batches 1 8 --threads 1 2
    python benchmarks/runtime_speed.py --models resnet50 deit_small_patch16_224 resnet20 --mask global --memory
    python benchmarks/runtime_speed.py --models mobilenetv2_100 --mask pointwise --sparsities 0.9 --compile

Random weights with norms calibrated on real images, pruned by magnitude: each layer alike (uniform), all together
(global), or 1x1 layers alone (pointwise). The sparse file is what `pack --target sparse-ort` writes. All sessions of a
setting run in turn, each twice, and the second run counts, as in a program with one session; times are medians by the
clock. `ratio`: dense / sparse; `minima`: that of the fastest runs; `CPU`:
that of processor time, less disturbed by other programs; `limit`: multiply-adds dense / remaining; `error`: the largest
difference on real images, as a fraction of the largest output; `spread`: the middle half of the dense times over
their median, which tells how restless the machine was. --compile adds torch.compile (its fastest run, and
that over the fastest sparse one), and --memory the peak resident
memory of loading and three runs in a fresh process each, less what the imports took.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from pruned_models import Subject, pruned, subject
from rich.console import Console
from rich.table import Table

from sparsify_fx import runtime
from sparsify_fx.onnx_export import ExportReport, pack_onnx

COLUMNS = [
    "model",
    "zeros",
    "batch",
    "threads",
    "layers",
    "limit",
    "dense ms",
    "sparse ms",
    "ratio",
    "minima",
    "CPU",
]
COLUMNS += ["error", "spread"]


@dataclass(frozen=True)
class Setting:
    """What is run how."""

    batch: int
    threads: int
    runs: int
    compiled: bool
    memory: bool


def packed(
    dense: Path, target: Path, given: Subject, batch: int, autotune: bool
) -> ExportReport:
    """The sparse file, its layers chosen for this batch."""
    feed = given.feed(batch)
    return pack_onnx(
        dense, target, target="sparse-ort", autotune=autotune, verify=False, inputs=feed
    )


def open_session(
    path: Path, threads: int, library: str | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The threads of one session must not spin, waiting for work, while another session is measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if library is not None:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def times_in_turn(
    works: Sequence[Callable[[], object]], runs: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Milliseconds of wall time and of processor time, for each work and run; a run before each is not counted."""
    clock: list[list[float]] = [[] for _ in works]
    processor: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for place, work in enumerate(works):
            work()  # finds the other's weights in the caches
            start, used = time.perf_counter(), time.process_time()
            work()
            clock[place].append(1e3 * (time.perf_counter() - start))
            processor[place].append(1e3 * (time.process_time() - used))
    return clock, processor


def compare(
    given: Subject, dense: Path, sparse: Path, report: ExportReport, setting: Setting
) -> list[str]:
    """One row of the table without the names."""
    sessions = [
        open_session(dense, setting.threads, None),
        open_session(sparse, setting.threads, runtime.library()),
    ]
    feed, everything = given.feed(setting.batch), given.feed(len(given.images))
    expected, got = (session.run(None, everything)[0] for session in sessions)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    works: list[Callable[[], object]] = [
        lambda s=session: s.run(None, feed) for session in sessions
    ]
    if setting.compiled:
        works.append(compiled(given, setting))
    for work in works:
        work()
    clock, processor = times_in_turn(works, setting.runs)
    medians, minima = (
        [how(taken) for taken in clock] for how in (statistics.median, min)
    )
    cpu = [statistics.median(taken) for taken in processor]
    low, _, high = statistics.quantiles(clock[0], n=4)
    all_macs, left = report.macs or (0, 0)
    prunable = sum(row.prunable for row in report.layers)
    cells = [
        f"{len(report.sparse_layers)}/{prunable}",
        f"{all_macs / max(1, left):.1f}",
    ]
    cells += [
        f"{medians[0]:.2f}",
        f"{medians[1]:.2f}",
        f"{medians[0] / medians[1]:.2f}",
    ]
    cells += [f"{minima[0] / minima[1]:.2f}", f"{cpu[0] / cpu[1]:.2f}", f"{error:.0e}"]
    cells += [f"{(high - low) / medians[0]:.0%}"]
    cells += (
        [f"{minima[2]:.2f}", f"{minima[2] / minima[1]:.2f}"] if setting.compiled else []
    )
    if setting.memory:
        peaks = [
            peak(dense, given, setting, ""),
            peak(sparse, given, setting, runtime.library()),
        ]
        cells += [f"{peaks[0]:.0f}", f"{peaks[1]:.0f}", f"{peaks[1] / peaks[0]:.2f}"]
    return cells


def compiled(given: Subject, setting: Setting) -> Callable[[], object]:
    """The dense model through torch.compile with frozen weights: zeros make no difference to its speed."""
    torch.set_num_threads(setting.threads)
    torch._inductor.config.freezing = True
    torch._dynamo.reset()
    images, model = given.images[: setting.batch], torch.compile(given.torch_model)

    def work() -> object:
        with torch.no_grad():
            return model(images)

    return work


def peak(path: Path, given: Subject, setting: Setting, library: str) -> float:
    """Megabytes that a session and three runs add to the peak of a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/inputs.npz", **given.feed(setting.batch))
        command = [
            sys.executable,
            __file__,
            "--peak",
            str(path),
            f"{folder}/inputs.npz",
            str(setting.threads),
            library,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def table_of(given: argparse.Namespace) -> Table:
    """All rows; each is also printed when it is there."""
    columns = COLUMNS + (["compile ms", "over compile"] if given.compile else [])
    columns += ["dense MB", "sparse MB", "memory"] if given.memory else []
    title = f"{runtime.instruction_set()}, onnxruntime {onnxruntime.__version__}, {given.mask} masks"
    table = Table(*columns, title=title)
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
                    report = packed(dense, sparse, one, batch, given.autotune)
                    for threads in given.threads:
                        setting = Setting(
                            batch, threads, given.runs, given.compile, given.memory
                        )
                        cells = compare(one, dense, sparse, report, setting)
                        row = [name, f"{sparsity}", f"{batch}", f"{threads}", *cells]
                        table.add_row(*row)
                        print(*row, flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--mask", choices=["uniform", "global", "pointwise"], default="uniform"
    )
    parser.add_argument(
        "--data",
        default="mnist5k",
        help="real images: mnist5k, npz:PATH or imagefolder:PATH",
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--autotune", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    Console(width=170).print(table_of(parser.parse_args()))


def print_peak(path: str, inputs: str, threads: str, library: str) -> None:
    """The work of `peak`'s process, which has imported what this one has."""
    with np.load(inputs) as file:
        feed = {name: file[name] for name in file.files}
    before = _peak_megabytes()
    session = open_session(Path(path), int(threads), library or None)
    for _ in range(3):
        session.run(None, feed)
    print(_peak_megabytes() - before)


def _peak_megabytes() -> float:
    with open("/proc/self/status") as lines:
        return next(
            int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(*sys.argv[2:])
    else:
        main()
