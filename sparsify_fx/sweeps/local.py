"""Trials in processes of this machine, through concurrent.futures."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType

import torch

from sparsify_fx.errors import SweepError
from sparsify_fx.sweeps.plan import TrialConfig
from sparsify_fx.sweeps.trial import GRACE, Job, Outcome, run_job

# Set in a trial's process when the sweep is gone: nobody waits for what it returns.
_ORPHANED = threading.Event()


class LocalEngine:
    """Runs jobs in at most so many processes at once, each with cores (and GPUs) of its own.

    Every trial has a fresh process: one that is killed takes no other with it, and a GPU's memory is given back. All
    end with this process, however it ends.

    Args:
        trial: what one trial takes.
        workers: how many at once; as many as there are cores, or GPUs, for if not given.

    Raises SweepError where this machine has fewer GPUs than one trial takes.
    """

    def __init__(self, trial: TrialConfig, workers: int | None = None) -> None:
        slots = gpu_slots(trial.gpus)
        most = len(slots) if slots else max(1, cores() // trial.cpus)
        self.workers = most if workers is None else workers
        if slots and self.workers > len(slots):
            raise SweepError(
                f"{self.workers} workers need more than this machine's GPUs: they are enough for {len(slots)}; give "
                "fewer workers, or a fraction as gpus"
            )
        self._slots: queue.SimpleQueue[str] = queue.SimpleQueue()
        for slot in slots or [""] * self.workers:
            self._slots.put(slot)
        self._threads = ThreadPoolExecutor(self.workers)
        # Trials hold the reading end, and nobody ever writes: it ends when the process that holds the other end does,
        # by whatever signal, and they with it. Without this, trials of a killed sweep would train on as orphans.
        self._lifeline, self._held = multiprocessing.Pipe(duplex=False)

        # Forked from a server that has imported torch once: a trial starts in milliseconds, and no CUDA was used there.
        methods = multiprocessing.get_all_start_methods()
        kind = "forkserver" if "forkserver" in methods else "spawn"
        self._context = multiprocessing.get_context(kind)
        if kind == "forkserver":
            self._context.set_forkserver_preload([run_job.__module__])

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the trials that are still running; after a sweep that went through there are none."""
        self._held.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._lifeline.close()

    def submit(self, job: Job) -> Future[Outcome]:
        """Run it when a worker is free."""
        return self._threads.submit(self._run, job)

    def _run(self, job: Job) -> Outcome:
        """Wait for a job in a process of its own."""
        slot = self._slots.get()
        try:
            with ProcessPoolExecutor(
                1, self._context, _begin, (self._lifeline,)
            ) as process:
                return process.submit(_run_job, replace(job, devices=slot)).result()
        except BrokenProcessPool:
            told = "its process died (killed, or out of memory)"
            return Outcome(job.trial, error=told, again=True)
        finally:
            self._slots.put(slot)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_slots(gpus: float | None) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each trial that fits on the GPUs at the same time; empty for trials without one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    gpus = min(1, count) if gpus is None else gpus
    if not gpus:
        return []
    if gpus > count:
        raise SweepError(
            f"a trial takes {gpus:g} GPUs, and this machine has {count}; change trial.gpus, or give --ray"
        )
    if gpus < 1:
        return sorted(names * int(1 / gpus), key=names.index)
    each = int(gpus)
    return [
        ",".join(names[start : start + each])
        for start in range(0, count - each + 1, each)
    ]


def _begin(lifeline: Connection) -> None:
    """First thing in a trial's process."""
    # Ctrl-C reaches the whole group of processes; the sweep tells its trials to end itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """Wait until the sweep ends, then end, saving what is being trained."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    _ORPHANED.set()
    os.kill(os.getpid(), signal.SIGTERM)
    # By itself after the grace time if it hangs, and if it was between two things that heed the signal.
    time.sleep(GRACE + 1)
    os._exit(1)


def _run_job(job: Job) -> Outcome:
    """`run_job`, after which an orphan ends: its pool would wait for a next job forever."""
    outcome = run_job(job)
    if _ORPHANED.is_set():
        os._exit(1)
    return outcome
