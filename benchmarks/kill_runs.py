"""Trainings for `python -m benchmarks.kills`: small ones, in forked processes, and what their run folders hold."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.kill_faults import Fault, put_in
from sparsify_fx.checkpoints.run_files import read_checkpoint
from sparsify_fx.errors import PreemptedError, SparsifyError
from sparsify_fx.train import load_config, train
from sparsify_fx.train.signals import LEFT
from sparsify_fx.zoo.data import DATASETS, Kind, imagefolder

# What a training comes to that its end does not: it can be run again.
FINISHED, FAILED, ENDED_IN_WORDS = 0, 1, 2
STARTED: list[int] = []
"""The ids of all processes that `start` made, each of which leads a group with its workers."""
_TIMES = ("seconds", "checkpoint_seconds")
_COMMON = (
    "model=lenet300",
    "epochs=3",
    "batch_size=16",
    "device=cpu",
    "sparsity=0.36",
    "optimizer.lr=0.02",
    "save_cycles=true",
    "snapshots_at=[0, 1]",
)
# More often than anyone would, so that many kills find one being written.
_OFTEN = ("checkpoint.steps=3", "checkpoint_every=1")


@dataclass(frozen=True)
class Limits:
    """Seconds: patience, in which processes may notice by themselves that one of them is gone; hung, after which a
    training counts as one that does not end.
    """

    patience: float = 3.0
    hung: float = 60.0


@dataclass(frozen=True)
class Case:
    """One training: the keys of its configuration, and how many processes and data workers it has."""

    name: str
    overrides: tuple[str, ...]
    processes: int = 1
    workers: int = 0


@dataclass
class Process:
    """One started process of a training: its id, the file that it writes to, its exit status once it ended, and
    whether it had to be told that another one is gone.
    """

    pid: int
    log: Path
    status: int | None = None
    told: bool = False

    def ended(self) -> bool:
        """Whether it has ended; takes its status."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def workers(self) -> list[int]:
        """The ids of the processes that it has started."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [int(child) for child in children.split()]
        return []

    def kill(self, number: signal.Signals) -> bool:
        """Send a signal; whether there still was a process to get it."""
        if self.ended():
            return False
        os.kill(self.pid, number)
        return True


def prepare(folder: Path) -> None:
    """Write 200 images of four gray levels as one file and as a folder, which "streamed:" reads by workers."""
    numbers, labels = np.random.default_rng(7), np.arange(200) % 4
    noise = numbers.integers(0, 60, (200, 16, 16))
    images = (noise + 40 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder / "mine.npz", images=images, labels=labels)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        part = "val" if index % 5 == 0 else "train"
        place = folder / "images" / part / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    if "streamed" not in DATASETS:
        # An image folder is streamed only where it does not fit into memory: here nothing does.
        kind = Kind(
            lambda request: imagefolder.load(replace(request, limit_bytes=1)),
            "PATH",
            imagefolder.digest,
        )
        DATASETS.add("streamed", kind)


def in_memory(method: str, folder: Path, processes: int, often: bool = True) -> Case:
    """A training whose data are in memory, in one or several processes; `often`: with many checkpoints."""
    data = (f"data=npz:{folder / 'mine.npz'}", "augment={crop_padding: 2, flip: true}")
    keys = (*_COMMON, *(_OFTEN if often else ()), f"method={method}", *data)
    told = "" if often else ", checkpoints as by default"
    return Case(f"{method}, {processes} processes{told}", keys, processes)


def streamed(method: str, folder: Path) -> Case:
    """A training whose images are decoded by two workers."""
    keys = (
        *_COMMON,
        *_OFTEN,
        f"method={method}",
        f"data=streamed:{folder / 'images'}",
        "image_size=16",
        "augment.flip=true",
        "workers=2",
        "epochs=2",
    )
    return Case(f"{method}, 2 workers", keys, workers=2)


def start(case: Case, runs: Path, fault: Fault | None = None) -> list[Process]:
    """Fork the processes of a training; a fault happens in the first of them, which writes."""
    port = _free_port() if case.processes > 1 else 0
    found = []
    for rank in range(case.processes):
        log = runs.parent / f"log{rank}"
        pid = os.fork()
        if pid == 0:
            if case.processes > 1:
                os.environ |= _as_torchrun(rank, case.processes, port)
            _child(case, runs, log, fault if rank == 0 else None)
        STARTED.append(pid)
        found.append(Process(pid, log))
    return found


def wait(processes: list[Process], limits: Limits) -> bool:
    """Whether all processes ended within a time; those that did not are killed.

    As torchrun does, those that are left when one has failed get SIGTERM; not at once as there, but after some
    patience, in which they may notice by themselves.
    """
    begun, alone = time.monotonic(), float("inf")
    # All are asked: to ask takes the status of one that has ended.
    while sum(process.ended() for process in processes) < len(processes):
        now = time.monotonic()
        if any(process.status for process in processes):
            alone = min(alone, now)
        for process in processes:
            if now > alone + limits.patience and not process.told:
                process.told = process.kill(signal.SIGTERM)
        if now > begun + limits.hung:
            for process in processes:
                process.kill(signal.SIGKILL)
            return False
        time.sleep(0.002)
    return True


def content(folder: Path) -> dict[str, Any]:
    """All that a finished run folder holds, by file, without the times and the path, which no two runs share."""
    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            found[file.name] = file.read_bytes()
        elif file.suffix == ".pt":
            found[file.name] = read_checkpoint(file)
        elif file.suffix in (".json", ".jsonl"):
            lines = (
                file.read_text().splitlines()
                if file.suffix == ".jsonl"
                else [file.read_text()]
            )
            found[file.name] = [_timeless(json.loads(line)) for line in lines]
        elif file.suffix == ".yaml":
            found[file.name] = file.read_text().partition("\n")[2]
        else:
            found[file.name] = None
    return found


def differing(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """The places in which two contents are not alike to the bit."""
    if type(a) is not type(b):
        yield where
    elif isinstance(a, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not a.equal(b):
            yield where
    elif isinstance(a, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if key not in a or key not in b:
                yield f"{where}/{key}"
            else:
                yield from differing(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            yield f"{where}: length"
        for index, (left, right) in enumerate(zip(a, b, strict=False)):
            yield from differing(left, right, f"{where}[{index}]")
    elif a != b:
        yield where


def stands(runs: Path) -> list[int] | None:
    """(epochs, steps of the next) of the checkpoint that a killed training left; None before the first."""
    for file in runs.glob("*/checkpoint.pt"):
        state = read_checkpoint(file)
        return [state["epoch"], (state.get("within") or {}).get("step", 0)]
    return None


def left(processes: list[int], seconds: float = 20) -> list[str]:
    """What trainings with these ids have left beside their folders: processes, after a while, and shared memory."""
    deadline = time.monotonic() + seconds
    # Workers look every five seconds whether the process that started them is still there.
    while found := [f"a process of {pid}" for pid in processes if _group_lives(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    shared = (
        name for pid in processes for name in Path("/dev/shm").glob(f"torch_{pid}_*")
    )
    return [*found, *map(str, shared)]


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def temporaries(runs: Path) -> list[str]:
    """The temporary files in all run folders."""
    return [file.name for file in runs.glob("*/.*.tmp")]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in (*_TIMES, "folder")}


def _child(case: Case, runs: Path, log: Path, fault: Fault | None) -> NoReturn:
    """Train in this process, which was forked, and end it with the exit code of `sparsify-fx train`."""
    code = FAILED
    try:
        # A group of its own, so that a Ctrl-C at the harness does not count as a kill.
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if fault is not None:
            put_in(fault)
        config = load_config("mnist5k-lenet5", case.overrides)
        with _group(case.processes):
            train(config, runs_dir=runs, progress=False, tensorboard=False, grace=10)
        code = FINISHED
    except PreemptedError:
        code = LEFT
    except SparsifyError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = ENDED_IN_WORDS
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _group(processes: int) -> contextlib.AbstractContextManager[Any]:
    """The process group of a training of several processes."""
    if processes == 1:
        return contextlib.nullcontext()
    from sparsify_fx.distributed.joining import joined

    return joined("cpu")


def _as_torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells the processes that it starts."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
