"""Damage files of every kind, and see whether each command says so: docs/results/fuzz_files.json.

    python -m benchmarks.fuzz_files                          # 20,000 files, about an hour on two cores
    python -m benchmarks.fuzz_files --cases 400 --out f.json
    python -m benchmarks.fuzz_files --only 1234 --keep .     # one of them again, its file kept

Small files of every kind that this package reads are made first: packed in every way, of other writers, with weights
in every place, quantized, with data outside, checkpoints. Each case damages one of them, by its bytes or by its fields,
and gives it to `inspect`, `pack`, `unpack` and `optimize` in a process with 1 GB for its data. A call counts as
    done     it gave a result
    error    an error of this package, in words; nothing was written
    raw      an error of another kind: there must be none
    left     an error that left a file behind: there must be none
    slow     more than ten seconds: there must be none
    died     the process ended: there must be none
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_mutations import damaged
from benchmarks.fuzz_seeds import make_seeds

LIMIT = 2**30
SECONDS = 10.0
WORKERS = 2


def attempt(name: str, file: Path, folder: Path) -> tuple[str, str]:
    """One command on one file: what came of it, and the message."""
    from sparsify_fx.errors import SparsifyError

    before, start = sorted(folder.iterdir()), time.perf_counter()
    target = folder / "result.onnx"
    try:
        _run(name, file, target)
        outcome, message = "done", ""
    except SparsifyError as error:
        outcome, message = "error", str(error)
    except BaseException as error:
        outcome, message = "raw", f"{type(error).__name__}: {error}"
    taken = time.perf_counter() - start
    left = [each for each in folder.iterdir() if each not in before]
    if outcome == "error" and left:
        outcome, message = "left", f"{[each.name for each in left]}: {message}"
    for each in left:
        each.unlink()
    return (
        ("slow", f"{taken:.1f} s: {message}") if taken > SECONDS else (outcome, message)
    )


def _run(name: str, file: Path, target: Path) -> None:
    import onnx

    from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
    from sparsify_fx.onnx_export.files.tensors import load_onnx
    from sparsify_fx.passes.onnx_graph import optimize

    if name == "inspect":
        inspect_file(file)
    elif name == "unpack":
        unpack_onnx(file, target)
    elif name == "optimize":
        onnx.save(optimize(load_onnx(file))[0], target)
    else:
        pack_onnx(
            file, target, target="sparse-ort" if name == "pack-sparse" else "onnx"
        )


def commands(kind: str) -> tuple[str, ...]:
    """What is tried on files of a kind."""
    return (
        ("inspect", "pack", "pack-sparse", "unpack", "optimize")
        if kind == "onnx"
        else ("inspect", "pack")
    )


def work(connection: Connection, seeds: Path, keep: str | None) -> None:
    """Cases by number until None comes; answers (number, kind, command, outcome, message), and `done` after each."""
    import warnings

    import onnxruntime

    from sparsify_fx.onnx_export import inspect_file

    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(4)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    assert inspect_file is not None  # imported before the first case, whose time counts
    files = sorted(each for each in seeds.iterdir() if each.is_dir())
    while (number := _next(connection)) is not None:
        with tempfile.TemporaryDirectory() as name:
            folder, rng = Path(name), np.random.default_rng([0, number])
            seed = files[number % len(files)]
            file = damaged(seed, folder, rng)
            kind = "onnx" if file.suffix == ".onnx" else "checkpoint"
            if keep is not None:
                shutil.copytree(
                    folder, Path(keep) / f"case-{number}", dirs_exist_ok=True
                )
            for command in commands(kind):
                connection.send((number, seed.name, command, "began", ""))
                connection.send(
                    (number, seed.name, command, *attempt(command, file, folder))
                )
        connection.send((number, "", "", "next", ""))


def _next(connection: Connection) -> int | None:
    try:
        return int(connection.recv())
    except EOFError:  # the end of the run
        return None


class Worker:
    """A process that tries cases; a new one takes its place when it dies."""

    def __init__(self, seeds: Path, keep: str | None) -> None:
        self.seeds, self.keep = seeds, keep
        self.last: tuple[Any, ...] = (0, "", "", "", "")
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=work, args=(other, self.seeds, self.keep), daemon=True
        )
        self.process.start()
        other.close()

    def results(self) -> list[tuple[Any, ...]]:
        """All that has come, a death among it."""
        found = []
        try:
            while self.connection.poll(0.01):
                row = self.connection.recv()
                if row[3] == "began":
                    self.last = row
                else:
                    found.append(row)
        except (EOFError, ConnectionError):
            self.process.join()
            if self.process.exitcode == 1:
                raise RuntimeError("the fuzz itself failed; see above") from None
            number, seed, command, *_ = self.last
            found += [
                (number, seed, command, "died", f"exit {self.process.exitcode}"),
                (number, "", "", "next", ""),
            ]
            self.start()
        return found


def run(cases: list[int], seeds: Path, keep: str | None) -> list[tuple[Any, ...]]:
    """All results of these cases."""
    waiting, found = list(reversed(cases)), []
    workers = [Worker(seeds, keep) for _ in range(min(WORKERS, len(cases)))]
    busy = 0
    for worker in workers:
        worker.connection.send(waiting.pop())
        busy += 1
    while busy:
        for worker in workers:
            for row in worker.results():
                if row[3] != "next":
                    found.append(row)
                    if row[3] not in ("done", "error"):
                        print(*row, flush=True)
                    continue
                busy -= 1
                if waiting:
                    worker.connection.send(waiting.pop())
                    busy += 1
                if row[0] % 100 == 0:
                    print(
                        f"{row[0]} of {cases[-1] + 1}: {dict(collections.Counter(each[3] for each in found))}",
                        flush=True,
                    )
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument(
        "--from", type=int, default=0, dest="first", help="the number of the first case"
    )
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--keep", help="a folder for the damaged files")
    parser.add_argument("--out", default="docs/results/fuzz_files.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seeds = make_seeds(Path(name))
        start = time.time()
        results = run(
            [given.only]
            if given.only is not None
            else list(range(given.first, given.cases)),
            seeds,
            given.keep,
        )
    table: dict[str, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for _, seed, command, outcome, _ in results:
        table[f"{seed} {command}"][outcome] += 1
    faults = [list(row) for row in results if row[3] not in ("done", "error")]
    totals = collections.Counter(row[3] for row in results)
    print(
        f"{len({row[0] for row in results})} files: {dict(totals)} in {time.time() - start:.0f} s"
    )
    if given.only is None:
        summary = {
            "files": len({row[0] for row in results}),
            "calls": dict(totals),
            "faults": faults,
        }
        summary["by_seed_and_command"] = {
            key: dict(value) for key, value in sorted(table.items())
        }
        Path(given.out).write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
